"""The same values as something else: dtypes, layouts, containers.

Each is a function of a tensor of whole numbers from 0 to 100, which all dtypes hold,
in float32. ``SAME`` hold the same values, whoever reads them; ``SPOILT`` do not, and
have to be refused.
"""

import decimal
import fractions

import numpy as np
import torch


def strided(x):
    """Every other element of a tensor twice as long."""
    wide = torch.empty(*x.shape[:-1], 2 * x.shape[-1], dtype=x.dtype)
    wide[..., 1::2] = -1
    wide[..., ::2] = x
    return wide[..., ::2]


def transposed(x):
    return x.transpose(0, -1).contiguous().transpose(0, -1)


def in_subclass(x):
    return x.as_subclass(type("MyTensor", (torch.Tensor,), {}))


def reversed_in_memory(x):
    return np.ascontiguousarray(x.numpy()[..., ::-1])[..., ::-1]


def read_only(x):
    array = x.numpy().copy()
    array.flags.writeable = False
    return array


TENSORS = {
    "float32": lambda x: x,
    "float64": lambda x: x.double(),
    "float16": lambda x: x.half(),
    "bfloat16": lambda x: x.bfloat16(),
    "int8": lambda x: x.to(torch.int8),
    "uint8": lambda x: x.to(torch.uint8),
    "int16": lambda x: x.to(torch.int16),
    "int32": lambda x: x.int(),
    "int64": lambda x: x.long(),
    "uint16": lambda x: x.to(torch.uint16),
    "complex": lambda x: x.to(torch.complex64),
    "every other": strided,
    "transposed": transposed,
    "gradient": lambda x: x.clone().requires_grad_(),
    "parameter": lambda x: torch.nn.Parameter(x.clone()),
    "subclass": in_subclass,
    "result of a computation": lambda x: x.clone().requires_grad_() * 1,
    "inference": lambda x: _inference(x),
    "expanded": lambda x: x[:1].expand_as(x) if (x == x[:1]).all() else x,
    "sparse": lambda x: x.to_sparse(),
}
ARRAYS = {
    "array": lambda x: x.numpy(),
    "float64 array": lambda x: x.double().numpy(),
    "float16 array": lambda x: x.half().numpy(),
    "long double": lambda x: x.numpy().astype(np.longdouble),
    "int array": lambda x: x.long().numpy(),
    "uint64 array": lambda x: x.numpy().astype(np.uint64),
    "big endian": lambda x: x.numpy().astype(">f8"),
    "big endian integers": lambda x: x.numpy().astype(">i4"),
    "Fortran": lambda x: np.asfortranarray(x.numpy()),
    "reversed": reversed_in_memory,
    "read only": read_only,
    "objects": lambda x: x.numpy().astype(object),
    "objects of integers": lambda x: x.long().numpy().astype(object),
    "masked, none": lambda x: np.ma.masked_array(x.numpy(), mask=False),
    "complex array": lambda x: x.numpy().astype(complex),
}
CONTAINERS = {
    "list": lambda x: x.tolist(),
    "list of integers": lambda x: x.long().tolist(),
    "tuple": lambda x: tuple(x.tolist()),
    "list of tensors": list,
    "list of arrays": lambda x: list(x.numpy()),
    "text": lambda x: x.numpy().astype(str),
    "lists of text": lambda x: x.numpy().astype(str).tolist(),
    "bytes": lambda x: x.numpy().astype(bytes),
    "decimals": lambda x: _each(x, decimal.Decimal),
    "fractions": lambda x: _each(x, fractions.Fraction),
    "set": lambda x: set(x.flatten().tolist()),
    "dict": lambda x: dict(enumerate(x.tolist())),
    "generator": lambda x: (row for row in x),
    "None": lambda x: None,
    "a string": lambda x: "features.npy",
    "a class": lambda x: torch.Tensor,
}
SAME = TENSORS | ARRAYS | CONTAINERS
SPOILT = {
    "NaN": lambda x: _with(x, float("nan")),
    "infinity": lambda x: _with(x, float("inf")),
    "minus infinity": lambda x: _with(x, -float("inf")),
    "NaN of an array": lambda x: _with(x, float("nan")).numpy(),
    "None in lists": lambda x: _holding(x, None).tolist(),
    "None in objects": lambda x: _holding(x, None),
    "text in lists": lambda x: _holding(x, "n/a").tolist(),
    "masked": lambda x: _masked(x),
    "ragged": lambda x: [*x.tolist()[:-1], x.tolist()[-1] * 2],
    "empty": lambda x: x[:0],
    "a scalar": lambda x: x.flatten()[0],
    "NaT": lambda x: _with_nat(x),
}


def _inference(x):
    with torch.inference_mode():
        return x.clone()


def _each(x, kind):
    flat = [kind(int(v)) for v in x.flatten().tolist()]
    array = np.empty(len(flat), dtype=object)
    array[:] = flat
    return array.reshape(x.shape).tolist()


def _with(x, value):
    x = x.clone()
    x.flatten()[x.numel() // 2] = value
    return x


def _holding(x, value):
    array = x.numpy().astype(object)
    array.reshape(-1)[x.numel() // 2] = value
    return array


def _masked(x):
    mask = np.zeros(x.shape, dtype=bool)
    mask.reshape(-1)[x.numel() // 2] = True
    return np.ma.masked_array(x.numpy(), mask=mask)


def _with_nat(x):
    array = x.long().numpy().astype("datetime64[s]")
    array.reshape(-1)[0] = np.datetime64("NaT")
    return array


def frames(x):
    """A data set's rows as pandas has them, by name; without pandas none."""
    try:
        import pandas
    except ImportError:
        return {}
    frame = pandas.DataFrame(x.numpy(), columns=[f"c{n}" for n in range(x.shape[1])])
    mixed = frame.copy()
    mixed["c0"] = frame["c0"].astype("Int64")
    return {
        "frame": frame,
        "Float64": frame.astype("Float64"),
        "Int64": frame.astype("Int64"),
        "mixed": mixed,
        "object": frame.astype(object),
        "index": frame.set_index(np.arange(len(frame))[::-1] + 7),
    }
