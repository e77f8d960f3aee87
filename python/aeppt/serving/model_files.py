"""Models in files that hold no Python code, run on the CPU: ``.pt2``, ``.skops`` and ``.onnx``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export.graph_signature import ConstantArgument, InputKind, TensorArgument
from torch.utils import _pytree as pytree

from aeppt.serving.exported_archive import read_exported_program
from aeppt.serving.refusals import InputError

Arrays = dict[str, NDArray]

#: The Open Inference Protocol's datatypes, and what NumPy calls them.
NUMPY_DTYPES: dict[str, Any] = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
    "BYTES": np.object_,
}
TORCH_DATATYPES = {
    torch.bool: "BOOL",
    torch.uint8: "UINT8",
    torch.uint16: "UINT16",
    torch.uint32: "UINT32",
    torch.uint64: "UINT64",
    torch.int8: "INT8",
    torch.int16: "INT16",
    torch.int32: "INT32",
    torch.int64: "INT64",
    torch.float16: "FP16",
    torch.float32: "FP32",
    torch.float64: "FP64",
}
ONNX_DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}
DYNAMIC = -1


class TensorSpec(NamedTuple):
    """What an input must be, or an output is."""

    name: str
    datatype: str  # as the Open Inference Protocol names it: FP32, INT64, BYTES, …
    shape: tuple[int, ...]  # -1 where any size is taken


class ModelFile:
    """A model that was read from a file: named arrays in, named arrays out.

    :func:`load_model_file` makes them.

    Attributes
    ----------
    inputs : list of TensorSpec
        What a call must give.
    outputs : list of TensorSpec
        What it returns.
    """

    def __init__(
        self,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        run: Callable[[Arrays], Sequence[NDArray]],
    ) -> None:
        self.inputs = list(inputs)
        self.outputs = list(outputs)
        self._run = run

    def __call__(self, feed: Arrays) -> Arrays:
        """Run the model.

        Parameters
        ----------
        feed : dict of str to ndarray
            An array for each of ``inputs``. FP32 is taken for FP64 too, which holds it exactly;
            BYTES are object arrays of str or bytes.

        Raises
        ------
        InputError
            An input is missing, unknown, or of a wrong dtype, rank or size; the message names it.
        Exception
            What the model itself raises; ValueError, TypeError or IndexError where the inputs are
            to blame.
        """
        unknown = sorted(set(feed) - {spec.name for spec in self.inputs})
        if unknown:
            wanted = ", ".join(spec.name for spec in self.inputs)
            raise InputError(f"there is no input {unknown[0]!r}; the model takes {wanted}")
        arrays = {spec.name: _checked_input(spec, feed) for spec in self.inputs}
        names = [spec.name for spec in self.outputs]
        return dict(zip(names, self._run(arrays), strict=True))


def load_model_file(path: str | Path) -> ModelFile:
    """Load a model from a file that holds no Python code, to run on the CPU.

    Parameters
    ----------
    path : str or Path
        One of

        - ``.pt2``, a torch.export archive. Outputs are named as in what the module returned: the
          keys of a dictionary or dataclass, else ``output_0`` and so on. Archives with pickled
          parts or native code are refused.
        - ``.skops``, a fitted scikit-learn classifier with ``predict_proba``. Its input is
          ``input`` (FP64, FP32), its output ``probabilities``. Only scikit-learn's, NumPy's and
          SciPy's types that skops trusts are loaded.
        - ``.onnx``, run by ONNX Runtime.

    Returns
    -------
    ModelFile

    Raises
    ------
    ValueError
        The suffix is another, the file is damaged, or it holds what is not loaded.
    FileNotFoundError
        There is no such file.
    ImportError
        The library for that kind of file is not installed.
    """
    file = Path(path)
    if file.suffix not in _LOADERS:
        raise ValueError(
            f"{file} must end in {', '.join(_LOADERS)}, to say what kind of file it is"
        )
    if not file.is_file():
        raise FileNotFoundError(f"there is no model file {file}")
    return _LOADERS[file.suffix](file)


def _checked_input(spec: TensorSpec, feed: Arrays) -> NDArray:
    if spec.name not in feed:
        raise InputError(f"input {spec.name!r} is missing")
    array = np.asarray(feed[spec.name])
    wanted = np.dtype(NUMPY_DTYPES[spec.datatype])
    if array.dtype == np.float32 and wanted == np.float64:
        array = array.astype(np.float64)
    elif array.dtype.kind in "SU" and spec.datatype == "BYTES":
        array = array.astype(np.object_)
    if array.dtype != wanted:
        raise InputError(f"input {spec.name!r} must be {spec.datatype}, got {array.dtype}")
    fits = array.ndim == len(spec.shape) and all(
        size in (DYNAMIC, given) for size, given in zip(spec.shape, array.shape, strict=True)
    )
    if not fits:
        raise InputError(
            f"input {spec.name!r} must have shape {list(spec.shape)} (-1: any size), "
            f"got {list(array.shape)}"
        )
    return array


def _reason(error: Exception) -> str:
    """The error in one line, for messages; torch's have many."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


def _load_pt2(path: Path) -> ModelFile:
    try:
        program = read_exported_program(path.read_bytes())
        # Guards are Python texts in the file; inputs are checked here instead.
        module = program.module(check_guards=False)
    except Exception as error:  # torch raises nearly everything at a damaged archive
        raise ValueError(f"cannot load {path} with torch.export: {_reason(error)}") from error

    fakes = {node.name: node.meta.get("val") for node in program.graph.nodes}
    arguments: list[Any] = []  # of every user input: the name of a tensor, or the constant itself
    inputs = []
    for spec in program.graph_signature.input_specs:
        if spec.kind != InputKind.USER_INPUT:
            continue
        if isinstance(spec.arg, TensorArgument):
            inputs.append(_tensor_spec(path, "input", spec.arg.name, fakes[spec.arg.name]))
        elif not isinstance(spec.arg, ConstantArgument):
            raise ValueError(f"{path}: input {spec.arg.name!r} is not a tensor")
        arguments.append(spec.arg)

    names = _output_names(program.call_spec.out_spec)
    returned = [spec.arg for spec in _user_outputs(program)]
    is_tensor = [isinstance(argument, TensorArgument) for argument in returned]
    outputs = [
        _tensor_spec(path, "output", name, fakes[argument.name])
        for name, argument, tensor in zip(names, returned, is_tensor, strict=True)
        if tensor
    ]
    if not outputs:
        raise ValueError(f"{path}: the program returns no tensor")

    def run(arrays: Arrays) -> list[NDArray]:
        flat = [
            torch.from_numpy(_writeable(arrays[argument.name]))
            if isinstance(argument, TensorArgument)
            else argument.value
            for argument in arguments
        ]
        args, kwargs = pytree.tree_unflatten(flat, program.call_spec.in_spec)
        try:
            with torch.no_grad():
                leaves = pytree.tree_leaves(module(*args, **kwargs))
        except RuntimeError as error:
            if str(error).startswith("Expected input"):  # a size outside the exported range
                raise ValueError(f"the model takes no such input: {_reason(error)}") from error
            raise
        return [leaf.numpy() for leaf, tensor in zip(leaves, is_tensor, strict=True) if tensor]

    return ModelFile(inputs, outputs, run)


def _tensor_spec(path: Path, side: str, name: str, fake: torch.Tensor) -> TensorSpec:
    if fake.dtype not in TORCH_DATATYPES:
        raise ValueError(f"{path}: {side} {name!r} is {fake.dtype}, which has no NumPy dtype")
    if fake.device.type != "cpu":
        raise ValueError(f"{path} was exported on {fake.device}; export the model on the CPU")
    return TensorSpec(name, TORCH_DATATYPES[fake.dtype], _known_sizes(fake.shape))


def _user_outputs(program: Any) -> list[Any]:
    return [
        spec for spec in program.graph_signature.output_specs if spec.kind.name == "USER_OUTPUT"
    ]


def _output_names(structure: pytree.TreeSpec) -> list[str]:
    """A name for each leaf: the key it stands under, or its place where it has none."""
    leaves = list(range(structure.num_leaves))
    paths, _ = pytree.tree_flatten_with_path(pytree.tree_unflatten(leaves, structure))
    names = []
    for keys, place in paths:
        named = [str(getattr(key, "key", getattr(key, "name", ""))) for key in keys]
        names.append("_".join(filter(None, named)) or f"output_{place}")
    if len(set(names)) < len(names):
        names = [f"output_{place}" for place in leaves]
    return names


def _writeable(array: NDArray) -> NDArray:
    # torch has no notion of read-only memory, nor of negative strides.
    return np.ascontiguousarray(array) if array.flags.writeable else array.copy()


def _load_skops(path: Path) -> ModelFile:
    try:
        from skops import io
    except ImportError as error:
        raise ImportError(".skops files need skops: pip install skops") from error
    try:
        untrusted = io.get_untrusted_types(file=path)
        classifier: Any = None if untrusted else io.load(path)
    except Exception as error:
        raise ValueError(f"cannot load {path} with skops: {_reason(error)}") from error
    if untrusted:
        raise ValueError(
            f"{path} holds types that are not loaded, since they may run code: "
            f"{', '.join(untrusted)}; export the model as .onnx instead"
        )
    if not hasattr(classifier, "predict_proba") or isinstance(
        getattr(classifier, "classes_", None), list
    ):
        raise ValueError(
            f"{path} holds a {type(classifier).__name__}, not a classifier with predict_proba of "
            "one label"
        )
    features = getattr(classifier, "n_features_in_", DYNAMIC)

    def run(arrays: Arrays) -> list[NDArray]:
        return [np.asarray(classifier.predict_proba(arrays["input"]), np.float64)]

    given = TensorSpec("input", "FP64", (DYNAMIC, features))
    returned = TensorSpec("probabilities", "FP64", (DYNAMIC, len(classifier.classes_)))
    return ModelFile([given], [returned], run)


def _load_onnx(path: Path) -> ModelFile:
    try:
        import onnxruntime
        from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument
    except ImportError as error:
        raise ImportError(".onnx files need ONNX Runtime: pip install onnxruntime") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised; written, they would tell of inputs
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ValueError(f"cannot load {path} with ONNX Runtime: {_reason(error)}") from error
    inputs = [_onnx_spec(path, "input", value) for value in session.get_inputs()]
    outputs = [_onnx_spec(path, "output", value) for value in session.get_outputs()]
    names = [spec.name for spec in outputs]

    def run(arrays: Arrays) -> Sequence[NDArray]:
        try:
            results: Sequence[NDArray] = session.run(names, arrays)
        except InvalidArgument as error:
            raise ValueError(f"the model takes no such input: {_reason(error)}") from error
        return results

    return ModelFile(inputs, outputs, run)


def _onnx_spec(path: Path, side: str, value: Any) -> TensorSpec:
    if value.type not in ONNX_DATATYPES:
        raise ValueError(
            f"{path}: {side} {value.name!r} is {value.type}, not a tensor of a usual dtype"
            + ("; convert with zipmap=False" if "map" in value.type else "")
        )
    return TensorSpec(value.name, ONNX_DATATYPES[value.type], _known_sizes(value.shape))


def _known_sizes(sizes: Iterable[Any]) -> tuple[int, ...]:
    return tuple(size if isinstance(size, int) else DYNAMIC for size in sizes)


_LOADERS: dict[str, Callable[[Path], ModelFile]] = {
    ".pt2": _load_pt2,
    ".skops": _load_skops,
    ".onnx": _load_onnx,
}
