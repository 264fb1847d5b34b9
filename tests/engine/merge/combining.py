"""What a method makes of one module's factors, without files and without a cut."""

from engine.merge import METHODS, Options, Parts, Site


def target(method, parts, weights, *, absent=(), **options):
    row = METHODS[method]
    return row.combine(
        Parts(parts), Site(weights=weights, absent=absent, rank=99, options=Options(**{**row.defaults, **options}))
    )


def found(method, parts, weights, **more):
    B, A = target(method, parts, weights, **more).factors(min(parts[0].B.shape[0], parts[0].A.shape[1]))
    return (B @ A).numpy()
