"""How a Gram matrix is cut into tiles, one per program of the Triton kernel; needs no GPU to ask.

The lower triangle is cut into squares of side `block`. What rows remain below them are a strip of
`strip` rows, in pieces as wide as two squares, if they are few; a further row of squares is mostly
padding then: at n = 200 and block = 64 it has 8 rows of 64.
"""

import dataclasses

# An H200's multiprocessor multiplies 128 pairs of float64 entries while some 21 bytes reach it from
# the level-2 cache: reading a byte costs as much as computing six entries.
_ENTRIES_PER_BYTE = 6

# Each warp of a 64 x 64 tile computes 32 x 32 of it: 32 conversions to float64 for 64 products of
# 8 x 8 x 4. With 8 warps it was 24 for 32. Two warps (48 for 128) run out of registers.
_WARPS = {16: 1, 32: 2, 64: 4}


@dataclasses.dataclass(frozen=True)
class Tiling:
    """How a Gram matrix of side n is cut.

    Attributes:
        n: side of the Gram matrix.
        block: side of a square tile.
        strip: height of the strip below the squares, a multiple of 16; 0 if there is none.
        squares: squares along a side, those on the diagonal included.
        pieces: of the strip.
        warps: of a program.
    """

    n: int
    block: int
    strip: int
    squares: int
    pieces: int
    warps: int

    @property
    def alone(self) -> bool:
        """Whether one square, on the diagonal, is all there is."""
        return self.squares == 1 and self.strip == 0

    @property
    def programs(self) -> int:
        """For one matrix."""
        return self.squares * (self.squares + 1) // 2 + self.pieces

    @property
    def computed(self) -> int:
        """Entries of the Gram matrix that are computed, padding and the upper triangle included."""
        squares = self.squares * (self.squares + 1) // 2 * self.block**2
        return squares + self.pieces * self.strip * 2 * self.block

    @property
    def useful(self) -> float:
        """Share of them that are on or below the diagonal of the matrix."""
        return self.n * (self.n + 1) / 2 / self.computed

    @property
    def rows_padded(self) -> int:
        """Rows of the input that the programs number, those beyond n included."""
        return max(self.squares * self.block + self.strip, self.pieces * 2 * self.block)

    @property
    def rows_read(self) -> int:
        """Rows of the input that the programs read; a square on the diagonal reads its own once."""
        inside = min(self.n, self.squares * self.block)
        below = self.n - inside
        # Each row of squares but the first is read with each of the squares left of the diagonal.
        squares = inside
        for i in range(1, self.squares):
            squares += i * (self.block + min(self.block, inside - i * self.block))
        return squares + (self.pieces * below + self.n if self.strip else 0)


def tile_for(n: int, itemsize: int) -> Tiling:
    """The cheapest tiling for a Gram matrix of side n, of entries of so many bytes.

    Larger tiles read less, smaller ones compute less that is not needed. The two are added, as if
    nothing of one were hidden by the other.
    """

    def cost(tiling: Tiling) -> int:
        return tiling.computed + _ENTRIES_PER_BYTE * itemsize * tiling.rows_read

    # Not tiles of side 16 beyond n = 16: they convert an entry for every product of 8 x 8 x 4. One
    # square of side 64 alone spills under Triton 3.6; three of side 32 compute a quarter less.
    blocks = (16,) if n <= 16 else (32,) if n <= 64 else (32, 64)
    return min((_tiling(n, block) for block in blocks), key=cost)


def _tiling(n: int, block: int) -> Tiling:
    squares, remainder = divmod(n, block)
    strip = next((height for height in (16, 32) if remainder <= height <= block // 2), 0)
    if squares == 0 or remainder == 0:
        strip = 0
    if remainder and not strip:
        squares += 1
    pieces = -(-n // (2 * block)) if strip else 0
    return Tiling(n, block, strip, squares, pieces, _WARPS[block])
