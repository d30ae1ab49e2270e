"""Functions with cheap second derivatives against torch's own, in float64."""

import copy
import gc
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from geomfast.estimators.curvature.gauss_newton import GaussNewtonProducts
from geomfast.estimators.curvature.lanczos import random_vector
from geomfast.estimators.curvature.products import HessianProducts
from geomfast.estimators.curvature.twice.mode import CheapSecondDerivatives
from geomfast.estimators.graph import custom_functions, nodes
from tests.estimators.curvature.cases import classify, next_token


def rand(*shape, seed=0, dtype=torch.float64, scale=1.0):
    generator = torch.Generator().manual_seed(seed + 100 * len(shape) + sum(shape))
    return (scale * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype)


def derivatives(function, inputs, cheap):
    """Value, gradients, and products with the Hessian of a loss that is not linear in them."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    mode = CheapSecondDerivatives()
    with sdpa_kernel(SDPBackend.MATH):
        if cheap:
            with mode:
                y = function(*leaves)
        else:
            y = function(*leaves)
    loss = (y.sin() * rand(*y.shape, seed=1, dtype=y.dtype)).sum() + y.square().sum() / 3
    ours = sum("twice" in type(node).__module__ or _ours(node) for node in nodes(loss))
    first = torch.autograd.grad(loss, leaves, create_graph=True, allow_unused=True)
    found = [y.detach(), *(None if g is None else g.detach() for g in first)]
    used = [g for g in first if g is not None and g.requires_grad]
    for few in (used, used[:1], used[1:]):  # tangents of some only, too
        if not few:
            continue
        v = [rand(*g.shape, seed=2, dtype=g.dtype) for g in few]
        for _ in range(2):  # the second product finds what the first one kept
            found += torch.autograd.grad(few, leaves, v, retain_graph=True, allow_unused=True)
    # Linear in the gradient of y, as the Gauss-Newton matrix needs it.
    u = torch.zeros_like(y, requires_grad=True)
    pulled = torch.autograd.grad(y, leaves, u, create_graph=True, allow_unused=True)
    used = [g for g in pulled if g is not None]
    found += torch.autograd.grad(used, u, [rand(*g.shape, seed=3, dtype=g.dtype) for g in used])
    return found, ours, mode


def _ours(node):
    return getattr(getattr(type(node), "_forward_cls", None), "exact_second_derivative", False)


def same(function, *inputs, pairs=True, tolerance=1e-11):
    """pairs: whether functions of ours are to be in the graph; None where either will do."""
    expected, none, _ = derivatives(function, inputs, False)
    found, ours, mode = derivatives(function, inputs, True)
    assert not none and (pairs is None or bool(ours) == pairs)
    assert not mode.followed
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert (one is None) == (other is None) or not torch.as_tensor(
            0 if other is None else other
        ).any()
        if one is not None and other is not None:
            assert one.dtype == other.dtype and one.shape == other.shape
            torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def new_gelu(x):
    inner = math.sqrt(2.0 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0))
    return 0.5 * x * (1.0 + torch.tanh(inner))


ENTRIES = {
    "gelu": F.gelu,
    "gelu-tanh": lambda x: F.gelu(x, approximate="tanh"),
    "module": nn.GELU("tanh"),
    "silu": F.silu,
    "silu-module": nn.SiLU(),
    "new-gelu": new_gelu,
    "quick-gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "erf-gelu": lambda x: x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0))),
    "tanh": torch.tanh,
    "F.tanh": F.tanh,
    "exp": lambda x: (0.3 * x).exp(),
    "sin-cos": lambda x: x.sin() * x.cos() + torch.cos(x),
    "square": lambda x: x.square() - x * x + torch.square(2 * x),
    "powers": lambda x: x**2 + x.pow(3) - torch.pow(x, 4) / 7,
    "residual": lambda x: x + torch.tanh(x),
    "less": lambda x: 1 - x.sigmoid() - (2 - x),
    "of-itself": lambda x: torch.tanh(torch.tanh(x) + 0.1),
    "divided": lambda x: torch.div(x.tanh(), 3) - x / 2,
}


@pytest.mark.parametrize("name", ENTRIES)
@pytest.mark.parametrize("shape", [(3, 4), (5,), ()])
def test_entries(name, shape):
    same(ENTRIES[name], rand(*shape))
    same(ENTRIES[name], rand(*shape, scale=4.0, seed=5), tolerance=1e-9)
    if len(shape) == 2:
        same(lambda x: ENTRIES[name](x.mT), rand(*shape))
        same(lambda x: ENTRIES[name](x[:, None].expand(3, 2, 4)), rand(*shape))


OTHER_ENTRIES = {
    "keyword": lambda x: F.gelu(input=x),
    "linear": lambda x: 2 * x + x / 3 - x,
    "constant": lambda x: x * torch.ones(3, 4).double() + torch.ones(4).double(),
    "fraction": lambda x: x.abs().add(1).pow(0.5),
    "negative": lambda x: (x.abs() + 1) ** -2,
    "first-power": lambda x: x**1,
    "in-place": lambda x: F.silu(x + 0, inplace=True),
    "detached": lambda x: x * F.gelu(x.detach()),
}


@pytest.mark.parametrize("name", OTHER_ENTRIES)
def test_entries_that_are_torchs(name):
    same(OTHER_ENTRIES[name], rand(3, 4), pairs=None if name == "detached" else False)


def test_a_chain_is_no_longer_followed_once_it_is_written_to():
    def written(x):
        y = F.gelu(x)
        y.add_(x)  # now another function
        return y * y + torch.tanh(x * 1.0)

    def root_written(x):
        x = x * torch.ones(4).double()
        y = x + torch.tanh(x)
        z = x.mul_(2)
        return y * torch.tanh(z) + z.square()

    same(written, rand(3, 4))
    same(root_written, rand(3, 4))


def test_results_may_be_written_to():
    def written(x, w):
        y = F.gelu(x)
        y += 1
        z = F.linear(y, w)
        z *= 2
        n = F.layer_norm(z, (5,))
        n[0] = 0
        return n.add_(1) + F.rms_norm(z, (5,)).add_(z)

    same(written, rand(3, 4), rand(5, 4))


def test_squares_of_more_than_the_root_are_no_norm():
    def shifted(x):
        return x * torch.rsqrt(((x + 1) ** 2).mean(-1, keepdim=True) + 0.1)

    def scaled(x):
        return x * torch.rsqrt((x**2 + 3 * x + 9).mean(-1, keepdim=True) + 0.1)

    def summed(x):
        return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 0.1)

    def other(x):
        return (x + 1) * torch.rsqrt(x.square().mean(-1, keepdim=True) + 0.1)

    def columns(x):
        return x * torch.rsqrt(x.square().mean(0, keepdim=True) + 0.1)

    for function in (shifted, scaled, summed, other, columns):
        same(function, rand(4, 4))


def llama_norm(x, w):
    variance = x.to(x.dtype).pow(2).mean(-1, keepdim=True)
    return w * (x * torch.rsqrt(variance + 1e-3)).to(x.dtype)


def t5_norm(x, w):
    return (x * torch.rsqrt((x * x).mean(dim=-1, keepdim=True) + 0.1)) * (1 + w)


def power_norm(x, w):
    return x * (x.square().mean((-1,), keepdim=True) + 0.1).pow(-0.5) * w


@pytest.mark.parametrize("function", [llama_norm, t5_norm, power_norm])
@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4)])
def test_root_mean_square_norms_in_words(function, shape):
    same(function, rand(*shape), rand(4))
    same(lambda x, w: function(x.transpose(0, 1), w), rand(*shape[::-1][1:], 2, 4), rand(4))
    frozen = rand(4, seed=4)
    same(lambda x: function(x, frozen), rand(*shape))


ROWS = {
    "softmax": lambda x: x.softmax(-1),
    "first": lambda x: torch.softmax(x, 0),
    "F": lambda x: F.softmax(x, dim=1),
    "type": lambda x: F.softmax(x, dim=-1, dtype=torch.float64),
    "keyword": lambda x: torch.softmax(input=x, dim=-2),
    "log": lambda x: x.log_softmax(1),
    "F-log": lambda x: F.log_softmax(x, -1),
    "log-first": lambda x: torch.log_softmax(x.mT, dim=0),
    "module": nn.Softmax(dim=-1),
}


@pytest.mark.parametrize("name", ROWS)
def test_rows(name):
    same(ROWS[name], rand(3, 4))
    same(ROWS[name], rand(2, 3, 4))
    same(lambda x: ROWS[name](x.transpose(0, 2)), rand(2, 3, 4))
    hidden = torch.zeros(3, 3).double()
    hidden[0, 1] = -torch.inf
    if "log" not in name:
        same(lambda x: ROWS[name](x + hidden), rand(3, 3))


def test_rows_that_are_torchs():
    same(lambda x: F.softmax(x, -1, dtype=torch.float32).double(), rand(3, 4), pairs=False)
    with pytest.raises(IndexError), CheapSecondDerivatives():
        rand(3, 4).requires_grad_().softmax(2)
    with pytest.raises(IndexError), CheapSecondDerivatives():
        F.log_softmax(rand(3, 4).requires_grad_(), dim=-3)


NORMS = {
    "layer": lambda x, w, b: F.layer_norm(x, (4,), w, b),
    "eps": lambda x, w, b: F.layer_norm(x, [4], weight=w, bias=b, eps=0.5),
    "no-bias": lambda x, w, b: F.layer_norm(x, w.shape, w) + b,
    "plain": lambda x, w, b: F.layer_norm(x, (4,)) * w + b,
    "torch": lambda x, w, b: torch.layer_norm(x, (4,), w, b, 0.1),
    "rms": lambda x, w, b: F.rms_norm(x, (4,), w) + b,
    "rms-eps": lambda x, w, b: F.rms_norm(x, (4,), weight=w, eps=0.3) + b,
    "rms-plain": lambda x, w, b: F.rms_norm(x, (4,)) * w + b,
    "torch-rms": lambda x, w, b: torch.rms_norm(x, (4,), w, 0.1) + b,
}


@pytest.mark.parametrize("name", NORMS)
def test_norms(name):
    function = NORMS[name]
    for shape in ((3, 4), (2, 3, 4), (4,)):
        same(function, rand(*shape), rand(4), rand(4, seed=1), tolerance=1e-10)
    same(lambda x, w, b: function(x.mT, w, b), rand(4, 3), rand(4), rand(4, seed=1))
    w, b = rand(4), rand(4, seed=1)
    same(lambda x: function(x, w, b), rand(3, 4))
    same(lambda x, b: function(x, w, b), rand(3, 4), b)


def test_norms_of_several_dimensions():
    same(lambda x, w, b: F.layer_norm(x, (3, 4), w, b), rand(2, 5, 3, 4), rand(3, 4), rand(3, 4))
    same(lambda x, w: F.rms_norm(x, (3, 4), w), rand(2, 3, 4), rand(3, 4))


def test_norms_that_are_torchs():
    data = rand(3, 4)
    same(lambda w, b: F.layer_norm(data, (4,), w, b), rand(4), rand(4), pairs=False)
    with CheapSecondDerivatives():  # has no second derivative in torch
        y = F.layer_norm(rand(3, 4).requires_grad_(), (4,), None, rand(4))
    assert not any(_ours(node) for node in nodes(y.sum()))
    with pytest.raises(RuntimeError, match="normalized_shape"), CheapSecondDerivatives():
        F.layer_norm(rand(3, 4).requires_grad_(), (3,))


def masks(n, heads, t, length):
    draw = torch.Generator().manual_seed(3)
    seen = torch.rand(n, heads, t, length, generator=draw) < 0.6
    seen[..., 0] = True
    nowhere = seen.clone()
    nowhere[0, 0, 1] = False
    return {
        "none": {},
        "causal": {"is_causal": True},
        "scale": {"scale": 0.3, "is_causal": True},
        "bool": {"attn_mask": seen},
        "rows-without": {"attn_mask": nowhere},
        "broadcast": {"attn_mask": seen[:1, :1]},
        "two-dimensional": {"attn_mask": seen[0, 0]},
        "keys": {"attn_mask": seen[:, :1, :1]},
        "added": {"attn_mask": rand(1, heads, t, length)},
        "infinite": {"attn_mask": torch.where(nowhere, 0.0, -math.inf).double()},
        "no-dropout": {"dropout_p": 0.0},
    }


@pytest.mark.parametrize("name", masks(1, 1, 2, 2))
@pytest.mark.parametrize(("t", "length"), [(4, 4), (3, 5), (5, 3)])
def test_attention(name, t, length):
    given = masks(2, 3, t, length)[name]
    shapes = (2, 3, t, 4), (2, 3, length, 4), (2, 3, length, 5)
    q, k, v = (rand(*shape, seed=i) for i, shape in enumerate(shapes))
    same(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, **given), q, k, v)
    same(
        lambda q, k, v: F.scaled_dot_product_attention(
            q.transpose(1, 2), key=k.transpose(1, 2), value=v.transpose(1, 2), **given
        ),
        *(x.transpose(1, 2).contiguous() for x in (q, k, v)),
    )


def test_attention_of_grouped_heads_and_of_one_head():
    q, k, v = rand(2, 4, 3, 4), rand(2, 2, 3, 4, seed=1), rand(2, 2, 3, 4, seed=2)

    def grouped(q, k, v):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)

    same(grouped, q, k, v)
    same(F.scaled_dot_product_attention, rand(2, 3, 4), rand(2, 3, 4, seed=1), rand(2, 3, 4))
    same(lambda x: F.scaled_dot_product_attention(x, x, x), rand(2, 3, 4))


def test_attention_that_is_torchs():
    q, k, v = rand(2, 2, 3, 4), rand(2, 2, 3, 4, seed=1), rand(2, 2, 3, 4, seed=2)
    fixed = rand(2, 2, 3, 4, seed=3)
    attend = F.scaled_dot_product_attention
    same(attend, rand(3, 4), rand(3, 4, seed=1), rand(3, 4, seed=2), pairs=False)
    same(lambda q, v: attend(q, fixed, v), q, v, pairs=False)
    same(lambda q, k, v: attend(q, k[:1, :1], v), q, k, v, pairs=False)
    same(lambda q, k, v, m: attend(q, k, v, m), q, k, v, rand(3, 3), pairs=False)

    def dropped(q, k, v):
        torch.manual_seed(0)
        return attend(q, k, v, dropout_p=0.5)

    same(dropped, q, k, v, pairs=False)


PRODUCTS = {
    "linear": lambda x, w, b: F.linear(x, w, b),
    "keywords": lambda x, w, b: F.linear(x, weight=w, bias=b),
    "no-bias": lambda x, w, b: F.linear(x, w) + b,
    "matmul": lambda x, w, b: x @ w.T + b,
    "torch": lambda x, w, b: torch.matmul(x, w.mT) * b,
    "addmm": lambda x, w, b: torch.addmm(b, x.flatten(0, -2), w.T.contiguous()),
    "mm": lambda x, w, b: torch.mm(x.flatten(0, -2), w.T) + b,
    "twice": lambda x, w, b: F.linear(F.linear(x, w, b) @ w, w, b),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_linear(name):
    for shape in ((3, 4), (2, 3, 4)):
        same(PRODUCTS[name], rand(*shape), rand(5, 4), rand(5))
    same(lambda x, w, b: PRODUCTS[name](x.mT, w, b), rand(2, 4, 3), rand(5, 4), rand(5))
    b = rand(5)
    same(lambda x, w: PRODUCTS[name](x, w, b), rand(3, 4), rand(5, 4))


def test_linear_that_is_torchs():
    data, w = rand(3, 4), rand(5, 4)
    same(lambda w, b: F.linear(data, w, b), w, rand(5), pairs=False)
    same(lambda x: F.linear(x, w), data, pairs=False)
    same(F.linear, rand(4), w, pairs=False)
    same(lambda b, x, w: torch.addmm(b, x, w.T, alpha=2), rand(5), data, w, pairs=False)
    same(lambda b, x, w: torch.addmm(b, x, w.T), rand(3, 5), data, w, pairs=False)
    same(lambda x, y: x @ y, rand(2, 3, 4), rand(2, 4, 5), pairs=False)


def test_gates():
    same(lambda a, b: F.silu(a) * b, rand(3, 4), rand(3, 4, seed=1))
    same(lambda a, b: torch.mul(a, b) * a, rand(3, 4), rand(3, 4, seed=1))
    same(lambda a, b: a * b, rand(3, 4), rand(4), pairs=False)
    same(lambda a, b: a * b.float(), rand(3, 4), rand(3, 4, seed=1), pairs=False)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_cross_entropy(reduction):
    labels = torch.tensor([0, 3, -100, 2, 1, -100])

    def loss(x, y, **given):
        return F.cross_entropy(x, y, reduction=reduction, **given)

    same(lambda x: loss(x, labels), rand(6, 4))
    same(lambda x: loss(x, labels.clamp_min(0), ignore_index=2), rand(6, 4))
    same(lambda x: loss(x.transpose(1, 2), labels.view(2, 3)), rand(2, 3, 4))
    same(lambda x: loss(x, torch.tensor(2)), rand(4))
    same(lambda x: loss(x, labels.view(2, 3, 1)), rand(2, 4, 3, 1))
    weight, soft = rand(4).abs(), rand(6, 4).softmax(1)
    for given in ({"weight": weight}, {"label_smoothing": 0.1}):
        same(lambda x, given=given: loss(x, labels, **given), rand(6, 4), pairs=False)
    same(lambda x: loss(x, soft), rand(6, 4), pairs=False)
    with pytest.raises(IndexError), CheapSecondDerivatives():
        loss(rand(6, 4).requires_grad_(), labels + 4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_torchs(dtype):
    x, w = rand(3, 4, dtype=dtype), rand(4, 4, dtype=dtype)
    for function in (F.gelu, lambda x: x.softmax(-1), lambda x: F.layer_norm(x, (4,))):
        same(function, x, pairs=False)
    same(F.linear, x, w, pairs=False)


def test_autocast_is_torchs():
    def function(x, w):
        with torch.autocast("cpu", torch.bfloat16):
            return F.layer_norm(F.gelu(F.linear(x, w)).float(), (5,))

    same(function, rand(3, 4, dtype=torch.float32), rand(5, 4, dtype=torch.float32), pairs=False)


def test_empty_tensors_are_torchs():
    with CheapSecondDerivatives():
        x = torch.zeros(0, 4, requires_grad=True)
        for y in (F.gelu(x), x.softmax(-1), F.layer_norm(x, (4,)), F.linear(x, torch.ones(5, 4))):
            assert not any(_ours(node) for node in nodes(y.sum()))


@pytest.mark.filterwarnings("ignore:.*jit.script:DeprecationWarning")
def test_without_gradients_and_under_transforms():
    with CheapSecondDerivatives():
        w = rand(4, 4).requires_grad_()
        with torch.no_grad():
            assert not F.gelu(w).requires_grad
        batched = torch.func.vmap(lambda x: F.layer_norm(F.gelu(x @ w), (4,)))(rand(3, 4))
        torch.func.jacrev(lambda x: x.softmax(-1))(rand(4))
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(rand(4), rand(4))
            F.gelu(dual * w)
    assert not any(_ours(node) for node in nodes(batched.sum()))


def test_a_derivative_that_overflows_is_left_to_torch():
    x = 1e7 * torch.ones(3)
    same(lambda x: torch.tanh(x**5), x, pairs=None)


def test_third_derivatives_are_refused():
    x = rand(3, 4).requires_grad_()
    v = rand(3, 4)
    w = rand(4, 4).requires_grad_()
    with CheapSecondDerivatives():
        made = {
            "gelu": F.gelu(x),
            "softmax": x.softmax(-1),
            "log": x.log_softmax(-1),
            "norm": F.layer_norm(x, (4,)),
            "linear": x @ w,
            "gate": x * w[:3],
            "attention": F.scaled_dot_product_attention(x[None], x[None], x[None])[0],
            "loss": F.cross_entropy(x, torch.tensor([0, 1, 2]), reduction="none"),
        }
    for y in made.values():
        (g,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        torch.autograd.grad(g, x, v, retain_graph=True)
        with pytest.raises(RuntimeError, match="cannot be differentiated again"):
            torch.autograd.grad(g, x, v, create_graph=True)


def test_gradgradcheck():
    def function(x, w):
        with CheapSecondDerivatives():
            h = F.gelu(F.layer_norm(F.linear(x, w), (4,)))
            h = F.scaled_dot_product_attention(h, h, h, is_causal=True)
            return (h * torch.tanh(h)).softmax(-1)

    inputs = rand(2, 3, 4).requires_grad_(), rand(4, 4).requires_grad_()
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


class Plain(HessianProducts):
    def _prepared(self, i, *, kept=True):
        return super()._prepared(i, kept=False)


class PlainGaussNewton(GaussNewtonProducts):
    def _prepared(self, i, *, kept=True):
        return super()._prepared(i, kept=False)


class Block(nn.Module):
    def __init__(self, d=8):
        super().__init__()
        self.n1, self.n2 = nn.LayerNorm(d), nn.RMSNorm(d)
        self.qkv, self.o = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.f1, self.f2 = nn.Linear(d, 2 * d), nn.Linear(2 * d, d)

    def forward(self, x):
        n, t, d = x.shape
        q, k, v = (y.view(n, t, 2, -1).transpose(1, 2) for y in self.qkv(self.n1(x)).split(d, -1))
        o = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(o.transpose(1, 2).reshape(n, t, d))
        return x + self.f2(F.gelu(self.f1(self.n2(x))))


class Gpt(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(7, 8), nn.Embedding(5, 8)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.norm, self.out = nn.LayerNorm(8), nn.Linear(8, 7, bias=False)

    def forward(self, tokens):
        x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.out(self.norm(x))


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(7, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0, "gelu", batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.out = nn.Linear(8, 7)

    def forward(self, tokens):
        return self.out(self.layers(self.tokens(tokens)))


def tokens():
    return torch.randint(0, 7, (6, 5), generator=torch.Generator().manual_seed(0))


def gpt2(attention):
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=7,
        n_positions=5,
        n_embd=8,
        n_layer=2,
        n_head=2,
        attn_implementation=attention,
        bos_token_id=0,
        eos_token_id=0,
    )
    return transformers.GPT2LMHeadModel(config)


def llama(attention):
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=7,
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=5,
        attn_implementation=attention,
        bos_token_id=0,
        eos_token_id=0,
    )
    return transformers.LlamaForCausalLM(config)


def language(model, batch):
    out = model(batch)
    logits = getattr(out, "logits", out)[:, :-1]
    return F.cross_entropy(logits.transpose(1, 2), batch[:, 1:], reduction="none").mean(1)


def images():
    return rand(6, 1, 5, 5), torch.arange(6) % 3


MODELS = {
    "gpt": (Gpt, tokens, language),
    "encoder": (Encoder, tokens, language),
    "gpt2-eager": (lambda: gpt2("eager"), tokens, language),
    "gpt2-sdpa": (lambda: gpt2("sdpa"), tokens, language),
    "llama-eager": (lambda: llama("eager"), tokens, language),
    "llama-sdpa": (lambda: llama("sdpa"), tokens, language),
    "cnn": (
        lambda: nn.Sequential(nn.Conv2d(1, 3, 3), nn.GELU(), nn.Flatten(), nn.Linear(27, 3)),
        images,
        classify,
    ),
    "squares": (
        lambda: nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2), nn.Tanh()),
        lambda: rand(6, 4),
        lambda model, x: (model(x) - 0.3).square().sum(1),
    ),
}


def built(name, seed=1):
    torch.manual_seed(seed)
    make, data, loss = MODELS[name]
    model = make().double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return model, data(), loss


def close(found, expected, name):
    # Llama's norms are computed in float32, whatever the model's type.
    tolerance = 1e-5 if name.startswith("llama") else 1e-10
    assert (found - expected).norm() <= tolerance * expected.norm()


@pytest.mark.parametrize("name", MODELS)
def test_models(name):
    model, batch, loss = built(name)
    products, plain = HessianProducts(model, loss, batch), Plain(model, loss, batch)
    v = random_vector(products.like, products.dimension, 0)
    close(products.gradient(), plain.gradient(), name)
    for _ in range(2):
        close(products(v), plain(v), name)
    assert not products.custom
    for part in list(products.parameters)[:: max(1, len(products.parameters) // 5)]:
        few = random_vector(products.like, products.sizes[part], 1)
        close(products.block([part], few), plain.block([part], few), name)
    chosen = list(products.parameters)[-1:]
    few, all_few = HessianProducts(model, loss, batch, chosen), Plain(model, loss, batch, chosen)
    part = random_vector(few.like, few.dimension, 1)
    close(few(part), all_few(part), name)


@pytest.mark.parametrize("name", MODELS)
def test_gauss_newton(name):
    model, batch, loss = built(name)
    products = GaussNewtonProducts(model, loss, batch)
    plain = PlainGaussNewton(model, loss, batch)
    v = random_vector(products.like, products.dimension, 0)
    close(products(v), plain(v), name)
    close(products.gradient(), plain.gradient(), name)


def replaced(model, batch, loss):
    """How many operations of torch's a graph has in place of ours, and how many of ours."""
    products = HessianProducts(model, loss, batch)
    graph = list(nodes(products.loss_of(0, kept=True)))
    return sum(map(_ours, graph)), {node.name() for node in graph}


def test_models_are_followed():
    """Otherwise they would be right, and slow."""
    for name in ("gpt", "encoder", "gpt2-eager", "llama-sdpa"):
        ours, others = replaced(*built(name))
        assert ours > 15
        assert not {"TanhBackward0", "GeluBackward0", "RsqrtBackward0", "PowBackward0"} & others
        assert not {"SoftmaxBackward0", "NativeLayerNormBackward0", "AddmmBackward0"} & others


def test_losses_that_look_at_their_own_gradient():
    model, x, _ = built("squares")

    def penalty(model, x):
        x = x.clone().requires_grad_()
        loss = model(x).square().sum(1)
        (g,) = torch.autograd.grad(loss.sum(), x, create_graph=True)
        return loss + g.square().sum(1)

    found, plain = HessianProducts(model, penalty, x), Plain(model, penalty, x)
    v = random_vector(found.like, found.dimension, 0)
    torch.testing.assert_close(found(v), plain(v))


def test_hooks_of_tensors_are_called():
    model, x, _ = built("squares")

    def reversed_gradients(model, x):
        y = torch.tanh(model(x))
        y.register_hook(lambda g: -3 * g)
        return (0.5 * y * y).sum(1)

    found, plain = (kind(model, reversed_gradients, x) for kind in (HessianProducts, Plain))
    v = random_vector(found.like, found.dimension, 0)
    torch.testing.assert_close(found(v), plain(v))
    torch.testing.assert_close(found.gradient(), plain.gradient())


def test_hooks_of_modules():
    model, batch, loss = built("gpt")
    seen = []
    model.blocks[0].f1.register_forward_hook(lambda module, x, y: y * 1.5)
    model.blocks[1].f1.register_full_backward_hook(lambda module, x, y: seen.append(y))
    found, plain = HessianProducts(model, loss, batch), Plain(model, loss, batch)
    v = random_vector(found.like, found.dimension, 0)
    torch.testing.assert_close(found(v), plain(v))
    assert seen


def test_checkpoints():
    norm, inner = nn.LayerNorm(4), nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4))
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), norm, inner, nn.Softmax(1)).double()
    x = rand(6, 4)
    expected = Plain(model, lambda model, x: model(x).square().sum(1), x)

    def recomputed(model, x):
        y = model[1](model[0](x))
        y = checkpoint(model[2:4], y, use_reentrant=False)
        return model[4](y).square().sum(1)

    found = HessianProducts(model, recomputed, x)
    v = random_vector(found.like, found.dimension, 0)
    torch.testing.assert_close(found(v), expected(v))


def test_nothing_is_left_of_the_mode():
    model, batch, loss = built("gpt")
    products = HessianProducts(model, loss, batch)
    assert products.making is None
    assert not any(_ours(node) for node in nodes(loss(model, batch).sum()))
    copy.deepcopy(model)


def test_memory_is_counted_and_given_back():
    model, batch, loss = built("gpt")
    found, plain = HessianProducts(model, loss, batch), Plain(model, loss, batch)
    assert 0.5 * plain._graph_bytes() < found._graph_bytes() < 1.5 * plain._graph_bytes()
    alive = [node for node in gc.get_objects() if isinstance(node, CheapSecondDerivatives)]
    assert not alive


def test_a_custom_function_of_the_users_is_still_named():
    class Cube(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        def backward(ctx, g):
            return 3 * ctx.saved_tensors[0] ** 2 * g

    with CheapSecondDerivatives():
        y = F.gelu(Cube.apply(rand(3).requires_grad_()))
    assert custom_functions(y.sum()) == ["Cube"]


def test_padded_batch_of_next_tokens():
    model, batch, _ = built("gpt")
    found, plain = HessianProducts(model, next_token, batch), Plain(model, next_token, batch)
    v = random_vector(found.like, found.dimension, 0)
    torch.testing.assert_close(found(v), plain(v))


def test_a_graph_that_does_not_agree_with_torch_is_not_used(monkeypatch):
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.GELU(), nn.Linear(5, 1))
    loss = lambda m, x: m(x)[:, 0].square()  # noqa: E731
    good = HessianProducts(model, loss, x)
    assert good.cheap

    def wrong(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        return found * 1.01 if func is torch.nn.functional.gelu else found

    monkeypatch.setattr(CheapSecondDerivatives, "__torch_function__", wrong)
    bad = HessianProducts(model, loss, x)
    assert not bad.cheap
    v = torch.randn(good.dimension, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(bad(v), good(v), rtol=1e-5, atol=1e-6)
