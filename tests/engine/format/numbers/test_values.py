"""NaN, infinity and zero are found, norms equal those of the fp64 definition."""

import hashlib
import json
import threading
from functools import partial

import numpy as np
import pytest

from engine.errors import HeaderError
from engine.format.adapter import read_adapter
from engine.format.files.digest import tensors_digest
from engine.format.files.header import read_header
from engine.format.numbers import values as room
from engine.format.numbers.values import scan_values
from tests.engine.format.adapters import P, adapter, packed, raw

A, B = P + "q.lora_A.weight", P + "q.lora_B.weight"


def scan(folder, tensors, **config):
    return scan_values(read_adapter(adapter(folder, tensors, **config)))


def bf16(values):
    """The upper halves of fp32 numbers, cut off."""
    return (np.asarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16)


def as_float(halves):
    return (halves.astype(np.uint32) << 16).view(np.float32)


class TestNonfinite:
    BAD = (np.nan, -np.nan, np.inf, -np.inf)

    @pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8"])
    @pytest.mark.parametrize("bad", BAD)
    def test_each_kind_of_bad_number_is_counted(self, tmp_path, dtype, bad):
        values = np.full((2, 3), -1, dtype)
        values[1, 2] = values[0, 0] = bad
        values[0, 1] = -np.finfo(dtype).max
        values[0, 2] = np.finfo(dtype).max
        found = scan(tmp_path, {A: values, B: np.ones((4, 2), dtype)})
        assert found.nonfinite == {A: 2}
        assert found.norms == {"q": None}

    @pytest.mark.parametrize("bad", BAD)
    def test_bad_numbers_in_bf16(self, tmp_path, bad):
        values = bf16([[1, -3e38, 3e38], [0, bad, -0.0]])
        found = scan(tmp_path, {A: values, B: bf16(np.ones((4, 2)))}, dtypes={A: "BF16", B: "BF16"})
        assert found.nonfinite == {A: 1}

    def test_largest_numbers_are_finite(self, tmp_path):
        found = scan(tmp_path, {A: np.full((2, 3), np.finfo("<f4").max, "<f4"), B: np.full((4, 2), -1e-38, "<f4")})
        assert found.nonfinite == {}

    def test_one_bad_number_far_behind_is_found(self, tmp_path):
        values = np.ones((2, 700_001), "<f4")
        values[1, -1] = np.nan
        assert scan(tmp_path, {A: values, B: np.ones((4, 2), "<f4")}).nonfinite == {A: 1}

    @pytest.mark.parametrize("bad", BAD)
    @pytest.mark.parametrize("row", [0, 1, 2])
    def test_one_in_any_row_of_a_large_factor_is_found(self, tmp_path, row, bad):
        """Each row's square shows it, in whichever of the blocks that are multiplied it lies."""
        values = np.zeros((3, 20_000), "<f4")
        values[:, 0] = 2.0
        values[row, 12_345] = bad
        found = scan(tmp_path, {A: values, B: np.ones((4, 3), "<f4")}, r=3)
        assert (found.nonfinite, found.norms) == ({A: 1}, {"q": None})

    def test_one_in_any_expert_is_found(self, tmp_path):
        """The last of three experts, whose neighbours are sound."""
        a, b = np.ones((3 * 2, 5), "<f4"), np.ones((7, 2 * 3), "<f4")
        a[5, 4] = np.inf
        names = {P + "m.e.lora_A.weight": a, P + "m.e.lora_B.weight": b}
        found = scan(tmp_path, names, target_modules=[], target_parameters=["e.w"])
        assert found.nonfinite == {P + "m.e.lora_A.weight": 1}

    @pytest.mark.parametrize("size", [1e200, 1e-200])
    def test_numbers_whose_squares_no_float_holds_are_sound(self, tmp_path, size):
        """1e200 squared is infinite, 1e-200 squared is 0: neither an infinity nor a factor of zeros."""
        found = scan(tmp_path, {A: np.full((2, 3), size), B: np.ones((4, 2))}, dtypes={A: "F64", B: "F64"})
        assert (found.nonfinite, found.zero) == ({}, ())

    def test_whole_numbers_are_finite(self, tmp_path):
        found = scan(tmp_path, {A: np.full((2, 3), -1, "i1"), B: np.zeros((4, 2), "i1")})
        assert (found.nonfinite, found.zero, found.unscanned) == ({}, (B,), ())

    def test_eight_bit_floats_are_named_as_not_looked_into(self, tmp_path):
        found = scan(tmp_path, {A: np.zeros((2, 3), "u1"), B: np.ones((4, 2), "<f4")}, dtypes={A: "F8_E4M3"})
        assert (found.unscanned, found.zero, found.norms) == ((A,), (), {"q": None})


def test_sound_factors_are_gone_over_once(tmp_path, monkeypatch):
    """The norm's own squares tell that nothing is wrong with them; only what has no norm is looked at besides."""
    looked = []
    look = room._Look

    def noted(info):
        looked.append(info.name)
        return look(info)

    monkeypatch.setattr(room, "_Look", noted)
    dora = P + "q.lora_magnitude_vector"
    scan(tmp_path, {A: np.ones((2, 3), "<f4"), B: np.ones((4, 2), "<f4"), dora: np.ones(4, "<f4")}, use_dora=True)
    assert looked == [dora]


class TestZero:
    def test_zeros_of_both_signs_are_zero(self, tmp_path):
        values = np.zeros((4, 2), "<f4")
        values[1] = -0.0
        found = scan(tmp_path, {A: np.ones((2, 3), "<f4"), B: values})
        assert (found.zero, found.norms) == ((B,), {"q": 0.0})

    @pytest.mark.parametrize("tiny", [1e-45, -1e-45])
    def test_the_smallest_number_is_not_zero(self, tmp_path, tiny):
        values = np.zeros((4, 2), "<f4")
        values[3, 1] = tiny
        assert scan(tmp_path, {A: np.ones((2, 3), "<f4"), B: values}).zero == ()

    def test_a_number_beside_negative_zeros_is_not_zero(self, tmp_path):
        values = np.full((4, 2), -0.0, "<f4")
        values[0, 0] = 1
        assert scan(tmp_path, {A: np.ones((2, 3), "<f4"), B: values}).zero == ()

    def test_a_tensor_without_elements_is_not_zero(self, tmp_path):
        found = scan(tmp_path, {A: np.ones((2, 3), "<f4"), B: np.zeros((0,), "<f4")})
        assert (found.zero, found.norms) == ((), {"q": None})


class TestNorms:
    def test_by_hand(self, tmp_path):
        """A = [[3, 4]], B = [[1], [2]]: ||BA|| = 5 * sqrt(5), times 4/1."""
        found = scan(tmp_path, {A: np.array([[3, 4]], "<f4"), B: np.array([[1], [2]], "<f4")}, r=1)
        assert found.norms["q"] == pytest.approx(4 * 5 * 5**0.5, rel=1e-15)

    @pytest.mark.parametrize("rank", [1, 3, 64])
    @pytest.mark.parametrize(("inner", "rel"), [(70, 1e-13), (20_000, 2e-6), (400_000, 2e-6)])
    def test_fp32_equals_the_definition(self, tmp_path, rank, inner, rel):
        rng = np.random.default_rng(rank)
        a, b = rng.normal(size=(rank, inner)).astype("<f4"), rng.normal(size=(33, rank)).astype("<f4")
        expected = np.linalg.norm(b.astype(float) @ a.astype(float)) * 4 / rank
        assert scan(tmp_path, {A: a, B: b}, r=rank).norms["q"] == pytest.approx(expected, rel=rel)

    @pytest.mark.parametrize("dtype", ["F16", "BF16", "F64"])
    def test_other_dtypes_equal_the_definition(self, tmp_path, dtype):
        rng = np.random.default_rng(1)
        shapes = [rng.normal(size=(2, 50)), rng.normal(size=(30, 2))]
        stored = [bf16(x) if dtype == "BF16" else x.astype({"F16": "<f2", "F64": "<f8"}[dtype]) for x in shapes]
        a, b = [(as_float(x) if dtype == "BF16" else x).astype(float) for x in stored]
        found = scan(tmp_path, dict(zip((A, B), stored, strict=True)), dtypes={A: dtype, B: dtype})
        assert found.norms["q"] == pytest.approx(np.linalg.norm(b @ a) * 2, rel=1e-13)

    @pytest.mark.parametrize("size", [1e-30, 1e-22, 1e25])
    def test_numbers_beyond_fp32_squares(self, tmp_path, size):
        """Large factors fall back to fp64 where squares would under- or overflow."""
        a, b = np.full((1, 1_100_000), size, "<f4"), np.ones((1, 1), "<f4")
        expected = float(np.float32(size)) * 1_100_000**0.5
        assert scan(tmp_path, {A: a, B: b}, r=4).norms["q"] == pytest.approx(expected, rel=1e-6, abs=0)

    def test_embedding(self, tmp_path):
        rng = np.random.default_rng(2)
        a, b = rng.normal(size=(2, 20)), rng.normal(size=(12, 2))
        found = scan(tmp_path, {P + "q.lora_embedding_A": a, P + "q.lora_embedding_B": b})
        assert found.norms["q"] == pytest.approx(2 * np.linalg.norm((b @ a).T), rel=1e-13)

    def test_convolution(self, tmp_path):
        rng = np.random.default_rng(3)
        a, b = rng.normal(size=(2, 4, 3, 5)), rng.normal(size=(8, 2, 1, 1))
        delta = np.einsum("orxy,rihw->oihw", b, a)
        assert scan(tmp_path, {A: a, B: b}).norms["q"] == pytest.approx(2 * np.linalg.norm(delta), rel=1e-13)

    def test_grouped_convolution_has_none(self, tmp_path):
        assert scan(tmp_path, {A: np.ones((8, 8, 3, 3)), B: np.ones((12, 2, 1, 1))}, r=8).norms == {"q": None}

    def test_experts(self, tmp_path):
        """A is (E, r, in) and B (out, r, E) on disk: expert-major and rank-major."""
        rng = np.random.default_rng(4)
        a, b = rng.normal(size=(3 * 2, 5)), rng.normal(size=(7, 2 * 3))
        delta = np.einsum("ore,eri->eoi", b.reshape(7, 2, 3), a.reshape(3, 2, 5)) * 2
        names = {P + "m.e.lora_A.weight": a, P + "m.e.lora_B.weight": b}
        found = scan(tmp_path, names, target_modules=[], target_parameters=["e.w"])
        assert found.norms["m.e"] == pytest.approx(np.linalg.norm(delta), rel=1e-13)

    @pytest.mark.parametrize("config", [{"use_qalora": True}, {"use_bdlora": {}}])
    def test_flavours_that_two_factors_do_not_define_have_none(self, tmp_path, config):
        assert scan(tmp_path, {A: np.ones((2, 3)), B: np.ones((4, 2))}, **config).norms == {"q": None}

    def test_kasa_has_none(self, tmp_path):
        tensors = {A: np.ones((2, 3)), B: np.ones((4, 2)), P + "q.lora_diag": np.ones(2)}
        assert scan(tmp_path, tensors, kasa_config={}).norms == {"q": None}

    def test_factors_that_do_not_fit_have_none(self, tmp_path):
        assert scan(tmp_path, {A: np.ones((2, 3)), B: np.ones((4, 5))}).norms == {"q": None}


@pytest.mark.parametrize("change", [b"", b"x"])
def test_a_file_of_another_size_is_noticed(tmp_path, change):
    """46: the file is replaced between reading its header and its values."""
    facts = read_adapter(adapter(tmp_path, {A: np.ones((2, 3)), B: np.ones((4, 2))}))
    content = facts.weights.read_bytes()
    facts.weights.write_bytes(content + change if change else content[:-1])
    reads = [partial(scan_values, facts, threads=threads) for threads in (1, 2)]
    for read in (*reads, lambda: tensors_digest(facts.weights, facts.header)):
        with pytest.raises(HeaderError) as caught:
            read()
        assert caught.value.code == "changed"


class TestDigest:
    def write(self, folder, content):
        path = folder / "x.safetensors"
        path.write_bytes(content)
        return tensors_digest(path, read_header(path))

    def test_by_hand(self, tmp_path):
        inner = hashlib.sha256(bytes([1, 2])).hexdigest()
        expected = hashlib.sha256(f'[["a","U8",[2],"{inner}"]]'.encode()).hexdigest()
        assert self.write(tmp_path, packed({"a": np.array([1, 2], "u1")})) == f"sha256:{expected}"

    def test_order_metadata_and_padding_do_not_count(self, tmp_path):
        a, b = np.arange(3, dtype="u1"), np.arange(5, dtype="<i4")
        first = self.write(tmp_path, packed({"b": b, "a": a}))
        header = {
            "__metadata__": {"format": "pt"},
            "a": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]},
            "b": {"dtype": "I32", "shape": [5], "data_offsets": [3, 23]},
        }
        assert self.write(tmp_path, raw(json.dumps(header) + "   ", a.tobytes() + b.tobytes())) == first

    @pytest.mark.parametrize(
        "other",
        [
            {"a": np.array([1, 3], "u1")},
            {"a": np.array([[1, 2]], "u1")},
            {"a": np.array([1, 2], "i1")},
            {"b": np.array([1, 2], "u1")},
        ],
    )
    def test_value_shape_dtype_and_name_count(self, tmp_path, other):
        assert self.write(tmp_path, packed(other)) != self.write(tmp_path, packed({"a": np.array([1, 2], "u1")}))

    def test_runs_in_a_thread(self, tmp_path):
        found = []
        content = packed({"a": np.arange(3_000_000, dtype="<i4")})
        thread = threading.Thread(target=lambda: found.append(self.write(tmp_path, content)))
        thread.start()
        thread.join()
        assert found == [self.write(tmp_path, content)]
