"""Families of matrices with known or treacherous spectra, shared by the tests."""

import functools

import numpy as np
import torch

from geomfast.kernels.backends import missing_reason, native_module


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def isas() -> list[str]:
    """Instruction sets of the C++ module that run here, best first."""
    return [] if missing_reason("_cpu") else native_module("_cpu").isas()


def normal(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    """Independent standard normal entries."""
    return torch.randn(*shape, dtype=dtype, generator=generator(seed))


def orthogonal(n: int, d: int, seed: int = 0) -> torch.Tensor:
    """(n, d) float64 with orthonormal rows (n <= d) or columns (n > d)."""
    long_side = torch.linalg.qr(normal(max(n, d), min(n, d), dtype=torch.float64, seed=seed))[0]
    return long_side.mT.contiguous() if n <= d else long_side


def with_spectrum(values: torch.Tensor, n: int, d: int, seed: int = 0) -> torch.Tensor:
    """(n, d) float64 with these singular values, zeros after them."""
    k = len(values)
    left, right = orthogonal(n, n, seed)[:, :k], orthogonal(d, d, seed + 1)[:k]
    return (left * values.double()) @ right


def equal_rank(rank: int, n: int, d: int) -> torch.Tensor:
    """(n, d) float64 of exactly this rank, all non-zero singular values equal: RankMe = rank."""
    return with_spectrum(torch.ones(rank), n, d)


def geometric(ratio: float, n: int, d: int) -> torch.Tensor:
    """(n, d) float64 with singular values ratio^k."""
    return with_spectrum(ratio ** torch.arange(min(n, d), dtype=torch.float64), n, d)


def near_rank_two(n: int, d: int, noise: float = 1e-3) -> torch.Tensor:
    """(n, d) float32, rank 2 plus small noise: what collapsed representations look like."""
    return normal(n, 2) @ normal(2, d, seed=1) + noise * normal(n, d, seed=2)


@functools.cache
def matrices() -> dict[str, torch.Tensor]:
    """Name -> (N, d) matrix; treat as read-only."""
    cases = {
        "orthogonal rows": orthogonal(40, 64),
        "orthogonal columns": orthogonal(64, 40).float(),
        "identity": torch.eye(33),
        "diagonal": torch.diag(torch.arange(20.0)),
        "rank 1, float64": normal(200, 1).double() @ normal(1, 128, seed=1).double(),
        "rank 2, float32": normal(200, 2) @ normal(2, 128, seed=1),
        "rank 3, equal": equal_rank(3, 60, 90),
        "rank 50, equal": equal_rank(50, 128, 200),
        "geometric 0.9": geometric(0.9, 100, 80),
        "geometric 0.5": geometric(0.5, 70, 70),
        "near rank 2": near_rank_two(200, 128),
        "near rank 2, tall": near_rank_two(300, 64),
        "near rank 2, 1e-6": near_rank_two(100, 150, noise=1e-6),
        "constant": torch.full((50, 70), 0.37),
        "one row repeated": normal(1, 96).expand(40, 96),
        "blocks": torch.block_diag(normal(10, 12), normal(9, 7), torch.zeros(5, 5)),
        "zero": torch.zeros(12, 17),
        "one entry": -torch.eye(12, 17)[:, :1] @ torch.eye(17)[:1],
        "huge": normal(30, 45) * 1e18,
        "tiny": normal(30, 45) * 1e-18,
        "subnormal float32": normal(20, 30) * 1e-40,
        "1e150": normal(30, 45, dtype=torch.float64) * 1e150,
        "1e-150": normal(45, 30, dtype=torch.float64) * 1e-150,
        "1e300": normal(45, 30, dtype=torch.float64) * 1e300,
        "1e-310": normal(30, 45, dtype=torch.float64) * 1e-310,
        "mixed scales": normal(40, 50, dtype=torch.float64) * torch.logspace(-12, 12, 50).double(),
        "tall": normal(500, 24),
        "wide": normal(24, 500),
        "odd": normal(101, 67),
        "237": normal(237, 300),
        "1000": normal(1000, 260),
    }
    for n in range(1, 10):
        cases[f"{n} x {n}"] = normal(n, n, seed=n)
        cases[f"{n} x {n + 4}, float64"] = normal(n, n + 4, dtype=torch.float64, seed=n)
        cases[f"{2 * n + 1} x {n}"] = normal(2 * n + 1, n, seed=n)
    return cases


@functools.cache
def reference_values(name: str) -> torch.Tensor:
    """Singular values of matrices()[name] by numpy's float64 SVD, descending."""
    x = matrices()[name].double().numpy()
    largest = np.abs(x).max()
    scale = 2.0 ** np.floor(np.log2(largest)) if largest > 0 else 1.0
    return torch.from_numpy(np.linalg.svd(x / scale, compute_uv=False) * scale)


# The shapes of the paper's RankMe values: widths of five scales, and the larger sides.
SHAPES = [(200, 128), (200, 768), (1000, 768), (200, 2560)]


@functools.cache
def families(n: int, d: int) -> dict[str, torch.Tensor]:
    """Name -> (n, d) matrix of a family for which RankMe is hard or easy; treat as read-only.

    "rank 2 + 1e-7" and its like lie where the noise is of the size of float64 rounding in the Gram
    matrix.
    """

    def draw(*shape: int) -> torch.Tensor:
        return normal(*shape, dtype=torch.float64, seed=sum(shape))

    rank_two = draw(n, 2) @ draw(2, d)
    noise = normal(n, d, dtype=torch.float64, seed=9)
    return {
        "random": draw(n, d).float(),
        "rank 2 + 1e-3": (rank_two + 1e-3 * noise).float(),
        "rank 2 + 1e-6": (rank_two + 1e-6 * noise).float(),
        "rank 2 + 1e-7, float64": rank_two + 1e-7 * noise,
        "rank 2 + 1e-8, float64": rank_two + 1e-8 * noise,
        "rank 2, float32": rank_two.float(),
        "rank 2, float64": rank_two,
        "rank 1, float64": draw(n, 1) @ draw(1, d),
        "rank 10, float64": draw(n, 10) @ draw(10, d),
        "geometric 0.8": geometric(0.8, n, d),
        "constant": torch.full((n, d), 0.37),
        "bfloat16": draw(n, d).bfloat16(),
    }


@functools.cache
def exact_rankme(n: int, d: int, name: str) -> float:
    """RankMe of families(n, d)[name] by float64 SVD, written apart from the package's own."""
    values = torch.linalg.svdvals(families(n, d)[name].double())
    p = values / values.sum()
    return torch.exp(-torch.xlogy(p, p).sum()).item()


def square_errors(n: int, d: int) -> float:
    """How far eigenvalues of a float64 Gram matrix may be off, relative to the largest.

    Forming X X^T of an (n, d) matrix rounds every inner product of rows, and a backward stable
    eigenvalue routine, LAPACK's or cuSOLVER's, adds a perturbation of a few roundings a row: in
    all a symmetric matrix of Frobenius norm F = max(n, d) eps sigma_1^2. No eigenvalue moves
    further than that (Weyl), and the root of the sum of all squared moves is no larger either
    (Hoffman and Wielandt). What float64 allows of a singular value of zero is sqrt(F).
    """
    return max(n, d) * torch.finfo(torch.float64).eps


def assert_values_of_gram(values: torch.Tensor, expected: torch.Tensor, n: int, d: int) -> None:
    """Descending singular values that came from a float64 Gram matrix are as close as they can be.

    Squares are within `square_errors`; a value of zero may stand for a square of three times that,
    since values no larger than twice the most negative eigenvalue are cleared.
    """
    allowed, largest = square_errors(n, d), expected[0].item() or 1.0
    off = ((values / largest) ** 2 - (expected / largest) ** 2).abs()
    assert (off <= torch.where(values > 0, allowed, 3.0 * allowed)).all(), off.max() / allowed


def rankme_error_of_gram(values: torch.Tensor, n: int, d: int) -> float:
    """Relative error that `square_errors` allows RankMe of these singular values, by p log p.

    A square off by e moves its value sigma by no more than 2 min(sqrt(e), e / sigma). With the
    squares of all e summing to F^2, the k values below sqrt(F) move by 2 k^(3/4) sqrt(F) together
    (Hoelder), the others by 2 F sqrt(sum of sigma^-2) (Cauchy and Schwarz). -p log p is
    subadditive, so that m values moved by t of their sum change the entropy by at most
    m entr(t / m) before they are normalised again, which adds t (2 + H).
    """
    if values[0] == 0:
        return 0.0
    allowed, scaled = square_errors(n, d), values / values[0]
    cloud = scaled**2 <= allowed
    total = scaled.sum()
    p = scaled / total
    entropy = torch.special.entr(p).sum()
    count = cloud.sum()
    others = scaled[~cloud]
    moved = [(count, 2.0 * count**0.75 * allowed**0.5 / total)]
    moved += [(len(others), 2.0 * allowed * (others**-2.0).sum().sqrt() / total)]
    error = torch.zeros((), dtype=torch.float64)
    for many, t in moved:
        if many > 0:
            error += many * torch.special.entr(t / many) + t * (2.0 + entropy)
    return torch.expm1(error).item()
