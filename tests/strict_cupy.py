"""A small strict stand-in for CuPy, on NumPy: what runs on it, only does what CuPy 14 can do.

    sys.modules.update(strict_cupy.modules())   # then `import cupy`, `import cupyx.scipy.special`, ... find it

Like CuPy it never mixes with numpy.ndarray (scalars may mix), returns 0-d arrays where NumPy returns scalars, never
warns, wraps integer-array indices that are out of range, and has only the names and keywords listed below. Stricter
than CuPy: NumPy's functions of its arrays, and NumPy arrays as indices, raise (CuPy dispatches or copies unasked).
It knows only the differences that are written here, and nothing of kernels, streams, memory pools or speed.
"""

import types
import warnings

import numpy as np
import scipy.sparse.linalg
import scipy.special

# ---- what CuPy has: "name" or "name:keyword,keyword" with those keywords of NumPy's that CuPy lacks ----------------

CONSTANTS = """
    bool_ complex64 complex128 complexfloating dtype e finfo float16 float32 float64 floating generic iinfo inexact inf
    int8 int16 int32 int64 integer intp nan newaxis number pi signedinteger uint8 uint16 uint32 uint64 unsignedinteger
"""
UFUNCS = """
    abs absolute add arctan bitwise_and bitwise_or bitwise_xor cbrt ceil conj conjugate copysign cos cosh divide equal
    exp exp2 expm1 floor floor_divide fmax fmin frexp greater greater_equal hypot invert isfinite isinf isnan left_shift
    less less_equal log log10 log1p log2 logaddexp logical_and logical_not logical_or logical_xor matmul maximum minimum
    mod multiply negative not_equal positive power reciprocal remainder right_shift rint sign signbit sin sinh sqrt
    square subtract tan tanh true_divide trunc
"""
FUNCTIONS = """
    all:where allclose any:where arange argmax argmin argsort:order,stable argwhere around array_equal atleast_1d
    atleast_2d average bincount broadcast_arrays:subok broadcast_to:subok clip:min,max,dtype,where,casting column_stack
    concatenate copy:subok count_nonzero:keepdims cumprod cumsum diag diagonal diff dot einsum:out expand_dims eye
    flatnonzero flip full full_like hstack imag inner isclose isin:kind linspace logspace max:initial,where mean:where
    median meshgrid min:initial,where moveaxis nan_to_num nanmax:initial,where nanmean:where nanmin:initial,where
    nansum:initial,where nonzero ones ones_like outer pad percentile:weights prod:initial,where quantile:weights ravel
    real repeat reshape:shape roll round searchsorted sort:order,stable split squeeze stack std:where,mean,correction
    sum:initial,where swapaxes take:mode take_along_axis tensordot tile trace transpose tri tril triu unique:sorted
    var:where,mean,correction vdot vstack where zeros zeros_like
"""
ABOUT_DTYPES = "can_cast issubdtype iscomplexobj isscalar ndim promote_types result_type shape size"  # plain answers
METHODS = """
    all:where any:where argmax argmin argsort:order,stable astype clip:dtype,where,casting conj copy cumprod cumsum
    diagonal dot fill flatten max:initial,where mean:where min:initial,where nonzero prod:initial,where ravel repeat
    reshape round searchsorted sort:order,stable squeeze std:where,mean,correction sum:initial,where swapaxes take:mode
    trace transpose var:where,mean,correction view
"""
ATTRIBUTES = "T dtype flags imag itemsize mT nbytes ndim real shape size strides"
BINARY = """
    add:add sub:subtract mul:multiply truediv:true_divide floordiv:floor_divide mod:remainder pow:power matmul:matmul
    lshift:left_shift rshift:right_shift and:bitwise_and or:bitwise_or xor:bitwise_xor
"""
COMPARE = "eq:equal ne:not_equal lt:less le:less_equal gt:greater ge:greater_equal"
UNARY = "neg:negative pos:positive abs:absolute invert:invert"
AT_DTYPES = "iIlLqQefd"  # of add.at
OF_LISTS = "column_stack concatenate full hstack ones stack vstack zeros".split()
SCALARS = (bool, int, float, complex, np.generic)


def _listed(table):
    """{name: keywords that are refused}"""
    pairs = (entry.partition(":") for entry in table.split())
    return {name: {"device", "like", *refused.split(",")} for name, _, refused in pairs}


# ---- between device arrays and the NumPy arrays inside them --------------------------------------------------------


def _inner(value):
    if isinstance(value, ndarray):
        return value._host
    if isinstance(value, np.ndarray):
        raise TypeError("Unsupported type <class 'numpy.ndarray'>: a NumPy array among CuPy's")
    if isinstance(value, (list, tuple)):
        return type(value)(_inner(v) for v in value)
    return value


def _device(value):
    if isinstance(value, (list, tuple)):
        return type(value)(_device(v) for v in value)
    if isinstance(value, (np.ndarray, *SCALARS)):
        array = object.__new__(ndarray)
        array._host = np.asarray(value)
        return array
    return value


def _call(function, refused, args, kwargs, wrap=_device):
    """`function` of NumPy on the arrays inside; its result as CuPy returns it."""
    if wrong := refused & kwargs.keys():
        raise TypeError(f"cupy: {function.__name__}() got an unexpected keyword argument {sorted(wrong)[0]!r}")
    if args and isinstance(args[0], list) and function.__name__ not in OF_LISTS:
        raise TypeError(f"cupy: {function.__name__}() of a list; make it an array first")
    if function.__name__ in ("sort", "argsort"):
        if kwargs.get("kind") not in (None, "stable"):
            raise ValueError("kind can only be None or 'stable'")
        kwargs = kwargs | {"kind": "stable"}
    if function.__name__ == "take":
        kwargs = kwargs | {"mode": "wrap"}
    out = kwargs.get("out")
    with np.errstate(all="ignore"):
        result = function(*_inner(args), **{k: _inner(v) for k, v in kwargs.items()})
    return wrap(result) if out is None else out


# ---- the array -----------------------------------------------------------------------------------------------------


class ndarray:
    """A NumPy array that is out of NumPy's reach."""

    __slots__ = ("_host",)
    __module__ = "cupy"
    __hash__ = None
    __array_ufunc__ = None  # np.exp(array) and numpy_array + array raise TypeError

    def __init__(self, shape, dtype=float, order="C"):
        self._host = np.empty(shape, dtype, order)
        self._host.reshape(-1, order="A").view(np.uint8).fill(0xCB)  # reading fresh memory shows

    def __array__(self, *args, **kwargs):
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`.")

    def __array_function__(self, function, kinds, args, kwargs):
        raise TypeError(f"numpy.{function.__name__} of a CuPy array")

    def get(self, stream=None, order="C", out=None, blocking=True):
        if out is None:
            return self._host.copy(order)
        out[...] = self._host
        return out

    def item(self, *index):
        return self._host.item(*index)

    def tolist(self):
        return self._host.tolist()

    def __bool__(self):
        return bool(self._host)

    def __int__(self):
        return int(self._host)

    def __float__(self):
        return float(self._host)

    def __repr__(self):
        return repr(self._host)

    def __format__(self, spec):
        return format(self._host.item() if self._host.ndim == 0 else self._host, spec)

    def __len__(self):
        return len(self._host)

    def __iter__(self):
        return (self[i] for i in range(len(self._host)))

    def _wrapped(self, index):
        """A NumPy index: integer arrays that reach over the end begin again at the front."""
        keys = index if isinstance(index, tuple) else (index,)
        keys = [np.asarray(_inner(k)) if isinstance(k, list) else _inner(k) for k in keys]
        widths = [0 if k is None or k is Ellipsis else k.ndim if _kind(k) == "b" else 1 for k in keys]
        axis = 0
        for i, key in enumerate(keys):
            if _kind(key) in ("i", "u"):
                keys[i] = key % max(1, self._host.shape[axis])
            axis += self._host.ndim - sum(widths) if key is Ellipsis else widths[i]
        return tuple(keys)

    def __getitem__(self, index):
        return _device(self._host[self._wrapped(index)])

    def __setitem__(self, index, value):
        if not isinstance(value, (ndarray, *SCALARS)) and np.ndim(value):
            raise ValueError("non-scalar numpy.ndarray cannot be used for fill")
        with np.errstate(all="ignore"):
            self._host[self._wrapped(index)] = value._host if isinstance(value, ndarray) else value


def _kind(key):
    return key.dtype.kind if isinstance(key, np.ndarray) else None


def _method(name, refused):
    function = getattr(np.ndarray, name)
    return lambda self, *args, **kwargs: _call(function, refused, (self, *args), kwargs)


def _attribute(name):
    def get(self):
        value = getattr(self._host, name)
        return _device(value) if isinstance(value, np.ndarray) else value

    return property(get)


def _operator(name, reflected=False, in_place=False):
    def operator(self, other):
        if not isinstance(other, (ndarray, np.ndarray, *SCALARS)):
            return NotImplemented
        function = getattr(cupy, name)
        if in_place:
            return function(self, other, out=self)
        return function(other, self) if reflected else function(self, other)

    return operator


def _equip_array():
    for name, refused in _listed(METHODS).items():
        setattr(ndarray, name, _method(name, refused))
    for name in ATTRIBUTES.split():
        setattr(ndarray, name, _attribute(name))
    for short, name in _pairs(BINARY):
        setattr(ndarray, f"__{short}__", _operator(name))
        setattr(ndarray, f"__r{short}__", _operator(name, reflected=True))
        setattr(ndarray, f"__i{short}__", _operator(name, in_place=True))
    for short, name in _pairs(COMPARE):
        setattr(ndarray, f"__{short}__", _operator(name))
    for short, name in _pairs(UNARY):
        setattr(ndarray, f"__{short}__", lambda self, name=name: getattr(cupy, name)(self))


def _pairs(table):
    return (entry.split(":") for entry in table.split())


# ---- functions -----------------------------------------------------------------------------------------------------


class _Ufunc:
    """No where=; of the methods only reduce of add and multiply, and add.at."""

    def __init__(self, ufunc):
        self._ufunc, self.__name__ = ufunc, ufunc.__name__
        if ufunc in (np.add, np.multiply):
            self.reduce = _function(ufunc.reduce, {"where", "initial"})
        if ufunc is np.add:
            self.at = _add_at

    def __call__(self, *args, out=None, dtype=None, casting="same_kind"):
        out = args[self._ufunc.nin] if len(args) > self._ufunc.nin else out
        options = {"dtype": dtype, "casting": casting} | ({} if out is None else {"out": out})
        return _call(self._ufunc, set(), args[: self._ufunc.nin], options)


def _function(function, refused, wrap=_device):
    return lambda *args, **kwargs: _call(function, refused, args, kwargs, wrap)


def _add_at(target, index, values):
    if target.dtype.char not in AT_DTYPES:
        raise TypeError(f"cupy.add.at does not support {target.dtype}")
    np.add.at(target._host, target._wrapped(index), _inner(values))


def scatter_add(a, slices, value):
    warnings.warn(
        "`cupyx.scatter_add` is deprecated. Please use `cupy.add.at` instead.", DeprecationWarning, stacklevel=2
    )
    _add_at(a, slices, value)


def array(obj, dtype=None, copy=True, order="K", ndmin=0):
    inside = _inner(obj) if isinstance(obj, (ndarray, list, tuple)) else obj
    made = np.array(inside, dtype, copy=copy or None, order=order, ndmin=ndmin)
    if made.dtype.kind not in "biufc":
        raise ValueError(f"Unsupported dtype {made.dtype}")
    return obj if isinstance(obj, ndarray) and made is obj._host else _device(made)


def asarray(a, dtype=None, order="K"):
    return array(a, dtype, copy=not isinstance(a, ndarray), order=order)


def ascontiguousarray(a, dtype=None):
    return asarray(a, dtype, order="C")


def asnumpy(a):
    return a.get() if isinstance(a, ndarray) else np.asarray(a)


def empty(shape, dtype=float, order="C"):
    return ndarray(shape, dtype, order)


def empty_like(prototype, dtype=None):
    return ndarray(_inner(prototype).shape, dtype or prototype.dtype)


class Generator:
    """cupy.random.Generator: few of NumPy's methods, other numbers."""

    def __init__(self, seed=None):
        self._generator = np.random.Generator(np.random.Philox(seed))

    def __getattr__(self, name):
        if name not in ("random", "standard_normal", "integers"):
            raise AttributeError(f"'Generator' object has no attribute {name!r}")
        method = getattr(self._generator, name)
        return lambda *args, **kwargs: _device(method(*args, **kwargs))


def erf(x, out=None):
    if x.dtype.kind == "c":
        raise TypeError("Wrong type for cupyx_scipy_special_erf: complex")
    return _call(scipy.special.erf, set(), (x,), {} if out is None else {"out": out})


# ---- cupyx.scipy.sparse.linalg -------------------------------------------------------------------------------------


class LinearOperator:
    def __init__(self, shape, matvec, rmatvec=None, matmat=None, dtype=None, rmatmat=None):
        self.shape, self._matvec = tuple(shape), matvec
        self.dtype = np.dtype(dtype) if dtype is not None else matvec(_device(np.zeros(shape[-1]))).dtype

    def matvec(self, x):
        y = self._matvec(x)
        right = isinstance(y, ndarray) and (y.dtype, y.shape) == (self.dtype, self.shape[:1])
        if not right or not y.flags.c_contiguous:
            raise TypeError(f"matvec: CuPy would misread anything but a contiguous {self.dtype} array (n,) of its own")
        return y


def _system(A, b, x0):
    """The product v -> A v, the right-hand side and the start, all of NumPy arrays."""
    if A.dtype.char not in "fdFD":
        raise TypeError(f"unsupported dtype: {A.dtype}")
    b = _inner(b).astype(A.dtype).reshape(-1)
    x = np.zeros_like(b) if x0 is None else _inner(x0).astype(A.dtype).reshape(-1)
    return lambda v: A.matvec(_device(v))._host, b, x


def gmres(A, b, x0=None, *, rtol=1e-5, atol=0.0, restart=None, maxiter=None):
    """As CuPy's: always whole restart cycles, maxiter counts steps, exact breakdown ends in LinAlgError."""
    product, b, x = _system(A, b, x0)
    n, steps = b.size, 0
    restart, maxiter = min(restart or 20, n), maxiter or 10 * n
    limit = max(atol, rtol * np.linalg.norm(b))
    if not b.any():
        return _device(b), 0
    while True:
        r = b - product(x)
        norm = np.linalg.norm(r)
        if norm <= limit or steps >= maxiter:
            return _device(x), 0 if norm <= limit else steps
        basis, hessenberg = np.zeros((n, restart), b.dtype), np.zeros((restart + 1, restart), b.dtype)
        with np.errstate(all="ignore"):
            v = r / norm
            for j in range(restart):
                basis[:, j] = v
                u = product(v)
                hessenberg[: j + 1, j] = basis[:, : j + 1].conj().T @ u
                u -= (
                    basis[:, : j + 1] @ hessenberg[: j + 1, j]
                )  # in place: a product that keeps its result is corrupted
                hessenberg[j + 1, j] = np.linalg.norm(u)
                v = u / hessenberg[j + 1, j]
        if not np.isfinite(hessenberg).all():
            raise np.linalg.LinAlgError("SVD did not converge in Linear Least Squares")
        x += basis @ np.linalg.lstsq(hessenberg, norm * np.eye(restart + 1, 1, dtype=b.dtype)[:, 0])[0]
        steps += restart


def _from_scipy(solver):
    def solve(A, b, x0=None, *, rtol=1e-5, atol=0.0, maxiter=None, callback=None):
        product, b, x = _system(A, b, x0)
        tell = callback and (lambda x: callback(_device(x)))
        operator = scipy.sparse.linalg.LinearOperator(A.shape, matvec=product, dtype=A.dtype)
        with np.errstate(all="ignore"):
            x, info = solver(operator, b, x, rtol=rtol, atol=atol, maxiter=maxiter, callback=tell)
        return _device(x), info

    return solve


# ---- the modules ---------------------------------------------------------------------------------------------------


def _module(name, **contents):
    module = types.ModuleType(name)
    vars(module).update(contents)
    return module


def _make_cupy():
    names = {n: getattr(np, n) for n in CONSTANTS.split()}
    names |= {n: _Ufunc(getattr(np, n)) for n in UFUNCS.split()}
    names |= {n: _function(getattr(np, n), refused) for n, refused in _listed(FUNCTIONS).items()}
    names |= {n: _function(getattr(np, n), set(), lambda answer: answer) for n in ABOUT_DTYPES.split()}
    own = (ndarray, array, asarray, ascontiguousarray, asnumpy, empty, empty_like)
    names |= {function.__name__: function for function in own}
    linalg = _module("cupy.linalg", norm=_function(np.linalg.norm, set()), LinAlgError=np.linalg.LinAlgError)
    random = _module("cupy.random", Generator=Generator, default_rng=Generator)
    return _module("cupy", __version__="14.2.0", is_available=lambda: True, linalg=linalg, random=random, **names)


def modules():
    """{name: module} for sys.modules."""
    special = _module("cupyx.scipy.special", erf=erf)
    solvers = {"gmres": gmres} | {n: _from_scipy(getattr(scipy.sparse.linalg, n)) for n in ("bicgstab", "cgs")}
    linalg = _module("cupyx.scipy.sparse.linalg", LinearOperator=LinearOperator, **solvers)
    sparse = _module("cupyx.scipy.sparse", linalg=linalg)
    scipy_like = _module("cupyx.scipy", special=special, sparse=sparse)
    cupyx = _module("cupyx", scatter_add=scatter_add, scipy=scipy_like)
    return {m.__name__: m for m in (cupy, cupy.linalg, cupy.random, cupyx, scipy_like, special, sparse, linalg)}


cupy = _make_cupy()
_equip_array()
