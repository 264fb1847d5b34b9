"""Every method of exact semantics as its paper defines it: on whole ΔW in float64 numpy, written without our code.

`D` are the parents' ΔW of one module with zeros where a parent lacks it, `w` their weights, `o` the options.
"""

import numpy as np

NOISE = 1e-10


def weighted_sum(D, w, o):
    return sum(weight * delta for weight, delta in zip(w, D, strict=True))


def slerp(D, w, o):
    """Shoemake 1985, with t from the weights and coefficients on the matrices as they are."""
    t, (one, other) = w[1] / (w[0] + w[1]), D
    lengths = np.linalg.norm(one) * np.linalg.norm(other)
    cosine = float((one * other).sum() / lengths) if lengths else 1.0
    if abs(cosine) > 0.9995:
        return o["scale"] * ((1 - t) * one + t * other)
    angle = np.arccos(cosine)
    return o["scale"] * (np.sin((1 - t) * angle) * one + np.sin(t * angle) * other) / np.sin(angle)


def model_stock(D, w, o):
    """arXiv 2403.19522: t = N·c/(1 + (N - 1)·c) of the mean, c the mean cosine of the pairs."""
    norms = [np.linalg.norm(delta) for delta in D]
    pairs = [(i, j) for i in range(len(D)) for j in range(i)]
    cosines = [(D[i] * D[j]).sum() / (norms[i] * norms[j]) if norms[i] * norms[j] else 0.0 for i, j in pairs]
    c = max(0.0, float(np.mean(cosines)))
    return len(D) * c / (1 + (len(D) - 1) * c) * sum(D) / len(D)


def tsv_m(D, w, o):
    """arXiv 2412.00081: each parent's top singular triplets, their vectors brought to the nearest orthonormal ones."""
    live = [(delta, weight) for delta, weight in zip(D, w, strict=True) if delta.any() and weight]
    most = max(1, min(live[0][0].shape) // len(live))
    U, S, V = [], [], []
    for delta, weight in live:
        u, s, vt = np.linalg.svd(delta, full_matrices=False)
        kept = min(most, int((s > NOISE * s[0]).sum()))
        U.append(u[:, :kept])
        S.append(weight * s[:kept])
        V.append(vt[:kept].T)
    return o["scale"] * (_orthonormal(np.hstack(U)) * np.concatenate(S)) @ _orthonormal(np.hstack(V)).T


def _orthonormal(X):
    """X·(XᵀX)^(-½), the pseudo-inverse."""
    values, vectors = np.linalg.eigh(X.T @ X)
    inverse = np.where(values > NOISE * values[-1], 1 / np.sqrt(np.abs(values)), 0.0)
    return X @ (vectors * inverse) @ vectors.T


def knots_ties(D, w, o):
    """arXiv 2410.19735: TIES on S·V_i of the SVD of all ΔW side by side."""
    live = [(delta, weight) for delta, weight in zip(D, w, strict=True) if delta.any() and weight]
    U, S, Vt = np.linalg.svd(np.hstack([delta for delta, _ in live]), full_matrices=False)
    kept = NOISE * S[0] < S
    signs = _signs(U[:, kept])
    blocks = np.split(signs[:, None] * (S[:, None] * Vt)[kept], len(live), axis=1)
    return (U[:, kept] * signs) @ _ties(blocks, [weight for _, weight in live], o)


def core_ties(factors, w, o):
    """arXiv 2509.17786: TIES on the cores in the singular bases of [s_i·B_i] and [A_i]; `factors` are (s·B, A)."""
    live = [(pair, weight) for pair, weight in zip(factors, w, strict=True) if pair is not None and weight]
    left = _basis(np.hstack([B for (B, _), _ in live]))
    right = _basis(np.vstack([A for (_, A), _ in live]).T)
    cores = [(left.T @ B) @ (A @ right) for (B, A), _ in live]
    return left @ _ties(cores, [weight for _, weight in live], o) @ right.T


def _basis(stack):
    U, S, _ = np.linalg.svd(stack, full_matrices=False)
    kept = U[:, NOISE * S[0] < S]
    return kept * _signs(kept)


def _signs(columns):
    """Those that make the entry of largest magnitude positive: a drawn vote elects +, whichever way a column points."""
    return np.sign(columns[np.abs(columns).argmax(0), np.arange(columns.shape[1])])


def _ties(matrices, w, o):
    return elected([trim(one, threshold(one, o["density"]), o) for one in matrices], w, o)


def threshold(elements, density):
    """The least of the floor(density·size) largest magnitudes, one at least; of a matrix or of many, flat."""
    magnitudes = np.sort(np.abs(elements), axis=None)[::-1]
    return magnitudes[max(1, int(density * magnitudes.size)) - 1]


def trim(matrix, least, o):
    """arXiv 2306.01708's first step; what ties at the threshold stays."""
    return np.where(np.abs(matrix) >= least, matrix, 0.0) / (o["density"] if o["rescale"] == "density" else 1.0)


def drop(matrix, mask, o):
    """arXiv 2311.03099."""
    return matrix * mask / (o["density"] if o["rescale"] == "density" else 1.0)


def elected(kept, w, o):
    """Its second and third: a sign for each element, and the weighted mean of those that have it."""
    stack = np.stack(kept)
    column = np.reshape(w, (-1, 1, 1))
    votes = np.sign(stack) if o["majority_sign"] == "frequency" else stack
    votes = votes * (np.sign(column) if o["elect"] == "unweighted" else column)
    sign = np.where(votes.sum(0) >= 0, 1, -1)
    agree = np.sign(column * stack) == sign
    share = (agree * np.abs(column)).sum(0)
    mean = np.divide((agree * column * stack).sum(0), share, out=np.zeros_like(stack[0]), where=share > 0)
    return o["scale"] * mean


def scaled_sum(kept, w, o):
    return o["scale"] * weighted_sum(kept, w, o)
