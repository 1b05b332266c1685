"""The fused kernels of the sparse patterns, without a GPU.

Triton decides when a kernel is defined whether it is interpreted, and in tests all of them are.
What the compiler makes of them is asked in a process of its own, started by one test here.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from contract import assert_as_good, draw_inputs, gradients, worst

from patterns import Pattern, Unsupported, pattern
from patterns.fused import NARROWEST_TILE, triton_refusal
from patterns.sparse.base import SparsePattern

pytest.importorskip("triton")

COMPILED = os.environ.get("ATTNBENCH_COMPILED_KERNELS") == "1"
for_hopper = pytest.mark.skipif(not COMPILED, reason="runs in the process of compiled kernels")


@pytest.mark.skipif(COMPILED, reason="this is the process that it starts")
def test_the_kernels_compile_for_hopper() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", "hopper"],
        env={**os.environ, "ATTNBENCH_COMPILED_KERNELS": "1"},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert " passed" in ran.stdout


@pytest.fixture
def poisoned(interpreter: None):
    """Every tensor that is made empty starts as NaN, so that an unwritten number shows."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("causal", ["true", "false"])
@pytest.mark.parametrize(
    ("spec", "length", "heads", "kv_heads", "dim", "dtype", "contiguous"),
    [
        ("local[window=5]", 1, 2, 1, 16, torch.float32, True),
        ("local[window=1]", 35, 1, 1, 16, torch.float32, True),
        ("local[window=20]", 97, 2, 1, 32, torch.float32, False),
        ("local[window=70]", 150, 1, 1, 24, torch.float32, True),  # whole tiles, a padded head
        ("local[window=64]", 128, 1, 1, 64, torch.float16, True),
        ("local[window=500]", 67, 1, 1, 96, torch.float32, True),  # everything
        ("sinks[window=9]", 37, 4, 2, 16, torch.float32, False),
        ("sinks[window=40,sink=1]", 133, 1, 1, 16, torch.float32, True),
        ("sinks[window=16,sink=45]", 110, 2, 1, 16, torch.float32, True),  # sinks behind queries
        ("sinks[window=30]", 100, 1, 1, 40, torch.float16, False),
        ("sinks[window=30,sink=0]", 40, 1, 1, 16, torch.float32, True),
        ("logsparse", 1, 2, 1, 16, torch.float32, True),
        ("logsparse", 2, 1, 1, 16, torch.float32, True),
        ("logsparse", 34, 4, 2, 24, torch.float32, False),
        ("logsparse", 90, 1, 1, 32, torch.float32, True),
        ("logsparse", 33, 1, 1, 16, torch.float16, True),
        ("axial[columns=7]", 24, 1, 1, 16, torch.float32, False),  # a short last row
        ("axial[columns=60]", 20, 1, 1, 16, torch.float32, True),  # a single row
        ("strided[stride=5]", 16, 2, 1, 24, torch.float32, False),
        ("strided[stride=34]", 60, 1, 1, 16, torch.float32, True),  # two tiles a row
        ("strided[stride=10]", 24, 1, 1, 16, torch.float16, True),
        ("fixed[block=34]", 70, 2, 1, 24, torch.float32, False),
        ("fixed[block=20,tail=3]", 42, 1, 1, 16, torch.float32, True),  # a block less than a tail
        ("fixed[block=5,tail=5]", 12, 1, 1, 16, torch.float32, True),  # everything
        ("fixed[block=40]", 20, 1, 1, 16, torch.float32, True),  # a single block
        ("fixed[block=10]", 24, 1, 1, 16, torch.float16, False),
        ("logsparse[keys=suffix]", 1, 2, 1, 16, torch.float32, True),
        ("logsparse[keys=suffix]", 34, 2, 1, 24, torch.float32, False),
        ("logsparse[keys=suffix]", 200, 1, 1, 16, torch.float32, True),
        ("logsparse[keys=suffix]", 66, 1, 1, 16, torch.float16, True),
    ],
    ids=str,
)
def test_output_and_gradients_are_those_of_the_map(
    causal: str, spec: str, length: int, heads: int, kv_heads: int, dim: int,
    dtype: torch.dtype, contiguous: bool,
) -> None:  # fmt: skip
    inside = spec.partition("[")[2].rstrip("]")
    form = pattern(f"{spec.partition('[')[0]}[{inside + ',' if inside else ''}causal={causal}]")
    inputs = draw_inputs(
        length, heads=heads, kv_heads=kv_heads, dim=dim, dtype=dtype, contiguous=contiguous
    )
    assert_as_good(form, "triton", inputs)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize(
    ("rows", "keys", "split"),
    [(128, 64, True), (128, 64, False), (64, 128, True), (16, 64, True)],
)
@pytest.mark.parametrize("causal", [True, False])
def test_any_shape_of_tiles_gives_the_same(
    monkeypatch: pytest.MonkeyPatch, rows: int, keys: int, split: bool, causal: bool
) -> None:
    from patterns.kernels import window
    from patterns.kernels.window_tiles import Tiles
    from patterns.sparse.sinks import Sinks

    chosen = Tiles(rows=rows, keys=keys, warps=4, stages=1, split=split)
    monkeypatch.setattr(window, "tiles", lambda *_: chosen)
    length = 270 if rows > 16 else 140
    inputs = draw_inputs(length, heads=1, dim=16, dtype=torch.float32)
    assert_as_good(Sinks(window=length // 2 + 15, sink=3, causal=causal), "triton", inputs)


@pytest.mark.usefixtures("interpreter")
@pytest.mark.filterwarnings("ignore:Dynamo detected a call:UserWarning")
@pytest.mark.parametrize(
    "spec",
    [
        "sinks[window=9,sink=2]",
        "logsparse",
        "logsparse[keys=suffix]",
        "strided[stride=20]",
        "fixed[block=20]",
    ],
)
def test_one_graph_holds_the_kernels_under_torch_compile(spec: str) -> None:
    form = pattern(spec)
    inputs = draw_inputs(40, dim=16, dtype=torch.float32, contiguous=False)

    def doubled(*qkv: torch.Tensor) -> torch.Tensor:
        return 2 * form.attend(*qkv, backend="triton")

    doubled(*inputs)  # the operators exist from the first call on
    made = torch.compile(doubled, fullgraph=True, backend="aot_eager")(*inputs)
    wanted = doubled(*inputs)
    assert worst(made, wanted) == 0
    for got, want in zip(gradients(made, inputs), gradients(wanted, inputs), strict=True):
        assert worst(got, want) == 0


@pytest.mark.usefixtures("interpreter")
def test_the_operators_keep_the_rules_of_torch_library() -> None:
    from patterns.kernels import diagonals, suffix, tails, window

    assert diagonals.attend_diagonals
    assert window.attend_window
    assert suffix.attend_suffixes
    assert tails.attend_tails
    inputs = draw_inputs(20, dim=16, dtype=torch.float32, contiguous=False)
    rules = ("test_schema", "test_autograd_registration", "test_faketensor")
    for operator, arguments in (
        (torch.ops.attnbench.window.default, (0.25, 9, 2, True)),
        (torch.ops.attnbench.diagonals.default, (0.25, True)),
        (torch.ops.attnbench.suffix.default, (0.25, False)),
        (torch.ops.attnbench.tails.default, (0.25, 8, 2, True)),
    ):
        torch.library.opcheck(operator, (*inputs, *arguments), test_utils=rules)


def test_what_the_kernels_refuse() -> None:
    narrow = draw_inputs(8, dim=8, dtype=torch.float32)
    for form in (pattern("local"), pattern("logsparse"), pattern("axial")):
        with pytest.raises(Unsupported, match=r"run on CUDA, not cpu; use backend"):
            form.attend(*narrow, backend="triton")
        with pytest.raises(Unsupported, match=r"no backward pass on cpu; use backend"):
            form.attend(*narrow, backend="flex")
    with pytest.raises(Unsupported, match="no closed form"):
        pattern("logsparse[keys=suffix,causal=false]").attend(*narrow, backend="flex")


@pytest.mark.usefixtures("interpreter")
def test_what_the_interpreted_kernels_refuse() -> None:
    assert triton_refusal(draw_inputs(8, dim=16, dtype=torch.float32).q) is None
    assert "float64" in str(triton_refusal(draw_inputs(8, dim=16).q))
    for dim in (8, 320):
        q = draw_inputs(8, dim=dim, dtype=torch.float32).q
        assert f"not {dim}" in str(triton_refusal(q, narrowest=NARROWEST_TILE))


# FlexAttention.

MASKS = [
    pattern(f"{name}[{parameters}{',' if parameters else ''}causal={causal}]")
    for causal in ("true", "false")
    for name, parameters in (
        ("local", "window=1"),
        ("local", "window=100"),
        ("local", "window=300"),
        ("sinks", "window=20,sink=3"),
        ("sinks", "window=130,sink=150"),
        ("strided", "stride=1"),
        ("strided", "stride=100"),
        ("strided", "stride=200"),
        ("fixed", "block=100,tail=2"),
        ("fixed", "block=300"),
        ("fixed", "block=4,tail=4"),
        ("axial", "columns=1"),
        ("axial", "columns=100"),
        ("axial", "columns=300"),
        ("logsparse", ""),
        ("logsparse", "keys=suffix"),
    )
    if "suffix" not in parameters or causal == "true"
]
every_mask = pytest.mark.parametrize("form", MASKS, ids=lambda form: form.spec)


@every_mask
@pytest.mark.parametrize("length", [1, 129, 700, 1024])
def test_the_visible_blocks_are_those_with_a_visible_pair(form: SparsePattern, length: int) -> None:
    from patterns.kernels.flex import BLOCK, block_mask

    mask = block_mask(form, length, torch.device("cpu"))
    count = -(-length // BLOCK)
    inside = torch.zeros(count * BLOCK, count * BLOCK, dtype=torch.bool)
    inside[:length, :length] = True
    seen = inside.clone()
    seen[:length, :length] = form.support(length)
    some = seen.view(count, BLOCK, count, BLOCK).transpose(1, 2).flatten(2).any(-1)
    every = (seen | ~inside).view(count, BLOCK, count, BLOCK).transpose(1, 2).flatten(2).all(-1)
    partly = _table(mask.kv_num_blocks, mask.kv_indices)
    full = _table(mask.full_kv_num_blocks, mask.full_kv_indices)
    assert torch.equal(partly | full, some)
    assert not (partly & full).any()
    assert not (full & ~every).any()
    assert torch.equal(_table(mask.q_num_blocks, mask.q_indices), partly.T)
    assert torch.equal(_table(mask.full_q_num_blocks, mask.full_q_indices), full.T)


@pytest.mark.parametrize("causal", ["true", "false"])
@pytest.mark.parametrize("window", [1, 127, 128, 300])
def test_the_block_lists_of_a_window_are_those_of_pytorch(causal: str, window: int) -> None:
    from torch.nn.attention.flex_attention import create_block_mask

    from patterns.kernels.flex import block_mask

    ours = block_mask(pattern(f"local[window={window},causal={causal}]"), 640, torch.device("cpu"))
    theirs = create_block_mask(ours.mask_mod, 1, 1, 640, 640, device="cpu")
    for name in ("kv", "q", "full_kv", "full_q"):
        counts, indices = f"{name}_num_blocks", f"{name}_indices"
        found = _table(getattr(ours, counts), getattr(ours, indices))
        assert torch.equal(found, _table(getattr(theirs, counts), getattr(theirs, indices)))


def _table(counts: torch.Tensor | None, indices: torch.Tensor | None) -> torch.Tensor:
    """The bool table that a list of blocks tells."""
    assert counts is not None
    assert indices is not None
    assert indices.is_contiguous()  # compiled kernels walk along a row, whatever the strides say
    listed = torch.arange(indices.shape[-1]) < counts[0, 0, :, None]
    table = torch.zeros_like(listed)
    return table.scatter_(1, indices[0, 0].long(), listed)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")
@every_mask
def test_unfused_flex_attention_is_the_map_applied(form: SparsePattern) -> None:
    from patterns.kernels.flex import attend_flex

    inputs = draw_inputs(301, dim=16, dtype=torch.float32)
    q, k, v = (x.detach() for x in inputs)
    found = attend_flex(form, q, k, v, 0.25, compiled=False)
    wanted = form.weights(q, k, scale=0.25) @ v.repeat_interleave(2, dim=1)
    torch.testing.assert_close(found, wanted)


# What the compiler says of the kernels: no GPU is needed to compile for one.

HOPPER_SHARED_BYTES = 227 * 1024
STRIDES = ("_batch", "_head", "_row")


@for_hopper
@pytest.mark.parametrize("width", [64, 128, 256])
@pytest.mark.parametrize("kernel", ["forward", "queries", "keys", "sinks"])
def test_the_tiles_for_hopper_fit_its_shared_memory(kernel: str, width: int) -> None:
    from patterns.kernels import window_kernels, window_tiles

    cut, _ = window_tiles._known(kernel, width, 16)  # type: ignore[arg-type]
    name = "window_forward" if kernel == "forward" else f"window_backward_{kernel}"
    constants = {"D": width, "WIDTH": width, "ROWS": cut.rows, "KEYS": cut.keys, "SINKS": 16}
    constants |= {"CAUSAL": True, "SINK": True, "SPLIT": cut.split, "IP": "ieee"}
    binary = _for_hopper(getattr(window_kernels, name), constants, cut.warps, cut.stages)
    assert 0 < binary.metadata.shared <= HOPPER_SHARED_BYTES
    assert ("wgmma" in binary.asm["ptx"]) == (kernel != "sinks")


@for_hopper
@pytest.mark.parametrize("name", ["forward", "backward_queries", "backward_keys"])
def test_the_diagonals_compile_for_hopper(name: str) -> None:
    from patterns.kernels import diagonals_kernels

    constants = {"D": 96, "WIDTH": 128, "ROWS": 32, "CAUSAL": True, "STAGES": 2}
    kernel = getattr(diagonals_kernels, f"diagonals_{name}")
    assert _for_hopper(kernel, constants, 4, 2).metadata.shared <= HOPPER_SHARED_BYTES


def _for_hopper(kernel, constants: dict[str, object], warps: int, stages: int):
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    constants = {name: value for name, value in constants.items() if name in kernel.arg_names}
    pointers = {"q", "k", "v", "out", "grad", "dq", "dk", "dv"}
    single = {"lse", "delta", "sink_dk", "sink_dv"}
    types, aligned = {}, {}
    for place, name in enumerate(kernel.arg_names):
        if name in constants:
            types[name] = "constexpr"
        elif name in pointers | single:
            types[name] = "*bf16" if name in pointers else "*fp32"
        else:
            types[name] = "fp32" if name in ("scale", "factor") else "i32"
        if name in pointers | single or name.endswith(STRIDES):
            aligned[place,] = [["tt.divisibility", 16]]
    source = ASTSource(fn=kernel, signature=types, constexprs=constants, attrs=aligned)
    options = {"num_warps": warps, "num_stages": stages}
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)


@pytest.mark.gpu
@pytest.mark.parametrize(
    "spec",
    [
        "local[window=100]",
        "sinks[window=100]",
        "logsparse",
        "axial[columns=100]",
        "strided[stride=100]",
        "fixed[block=100]",
        "fixed[block=100,tail=3]",
        "logsparse[keys=suffix]",
        "logsparse[keys=suffix,causal=false]",
    ],
)
@pytest.mark.parametrize("dim", [32, 64, 96, 128, 256])
def test_the_kernels_are_right_on_the_gpu(spec: str, dim: int) -> None:
    form: Pattern = pattern(spec)
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        inputs = draw_inputs(
            517, heads=4, kv_heads=2, dim=dim, dtype=dtype, device="cuda", contiguous=False
        )
        assert_as_good(form, "triton", inputs)


@pytest.mark.gpu
@pytest.mark.parametrize(
    "spec", ["sinks[window=100]", "logsparse", "logsparse[keys=suffix]", "strided", "fixed"]
)
def test_a_cuda_graph_captures_the_kernels(spec: str) -> None:
    form = pattern(spec)
    inputs = draw_inputs(517, dim=64, dtype=torch.bfloat16, device="cuda")

    def both() -> list[torch.Tensor]:
        out = form.attend(*inputs, backend="triton")
        gradients = torch.autograd.grad(out, inputs, torch.ones_like(out))
        return [out.detach(), *gradients]  # a live graph would tie the capture to its stream

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        wanted = both()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = both()
    graph.replay()
    for got, want in zip(found, wanted, strict=True):
        assert worst(got, want) == 0
