"""Parameters are nested dicts (lists for blocks) of arrays; dotted paths are the names in a safetensors file.

Gradients are nested dicts that grow where a vjp adds to them, so that what a loss does not touch costs nothing.
"""

from .backend import DTYPES, has_kernels, namespace, scatter_add, sum_by_index


def leaves(tree, prefix=""):
    """Yield ("encoder.layer.0.output.dense.weight", array) for every array."""
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        name = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(value, (dict, list)):
            yield from leaves(value, name)
        else:
            yield name, value


def nest(flat):
    """The tree of a {dotted name: array}; a level whose keys are 0, 1, ... without a gap becomes a list."""
    tree = {}
    for name, value in flat.items():
        *path, last = name.split(".")
        node = tree
        for key in path:
            node = node.setdefault(key, {})
        node[last] = value
    return _lists(tree)


def _lists(node):
    if not isinstance(node, dict):
        return node
    node = {k: _lists(v) for k, v in node.items()}
    if node and node.keys() == {str(i) for i in range(len(node))}:
        return [node[str(i)] for i in range(len(node))]
    return node


def child(grads, *path):
    """The sub-accumulator at `path`, made if absent; None when gradients are not wanted."""
    for key in path if grads is not None else ():
        grads = grads.setdefault(key, {})
    return grads


def add(grads, key, value):
    """grads[key] += value; the first value is stored without a copy, so it must be a fresh array."""
    if key in grads:
        grads[key] += value
    else:
        grads[key] = value


class RowSum:
    """The gradient of a table of which a batch touches few rows: rows (n, D) at indices (n,)."""

    def __init__(self, shape):
        self.shape, self._indices, self._rows, self._merged = shape, [], [], False

    @classmethod
    def of(cls, shape, indices, rows):
        """One whose rows are summed already: indices (U,) are sorted, each there once."""
        made = cls(shape)
        made._indices, made._rows, made._merged = [indices], [rows], True
        return made

    def copy(self):
        """One with the same rows, to which others may be added."""
        made = RowSum(self.shape)
        made._indices, made._rows, made._merged = [*self._indices], [*self._rows], self._merged
        return made

    def add(self, indices, rows):
        self._indices.append(indices)
        self._rows.append(rows)
        self._merged = False

    @property
    def size(self):
        """How many numbers were added."""
        return sum(rows.size for rows in self._rows)

    def rows(self):
        """(unique indices (U,), their summed gradients (U, D))."""
        xp = namespace(*self._rows)
        if not self._merged:
            merged = _summing(xp, self._rows[0].dtype)(xp.concatenate(self._indices), xp.concatenate(self._rows))
            self._indices, self._rows, self._merged = [merged[0]], [merged[1]], True
        return self._indices[0], self._rows[0]

    def parts(self):
        """(indices (n,) int64, rows (n, D)) as they were added, indices repeated or not, both contiguous."""
        xp = namespace(*self._rows)
        if len(self._rows) > 1:
            return xp.concatenate(self._indices), xp.concatenate(self._rows)
        return xp.ascontiguousarray(self._indices[0], xp.int64), xp.ascontiguousarray(self._rows[0])

    def dense(self):
        indices, rows = self.rows()
        table = namespace(rows).zeros(self.shape, rows.dtype)
        scatter_add(table, indices, rows)
        return table

    def join(self, other):
        """Take over the rows of another RowSum of the same table."""
        self._indices += other._indices
        self._rows += other._rows
        self._merged = False


def _summing(xp, dtype):
    """sum_by_index, or on a device what does the same in a fixed order."""
    if not has_kernels(xp) or dtype.name not in DTYPES:
        return sum_by_index
    from .update_gpu import sums_by_key

    return sums_by_key


def summed(parts, workers):
    """The sum of gradients {name: array or RowSum} of several parts of a batch, in the arrays of the first."""
    first, *others = parts

    def add_up(name):
        for other in others:
            if isinstance(first[name], RowSum):
                first[name].join(other[name])
            else:
                first[name] += other[name]

    workers.map(add_up, first if others else ())
    return first


def dense_gradients(grads, parameters):
    """{name: array} for exactly the names of `parameters` ({name: array}); zeros where nothing was added."""
    found = {n: g.dense() if isinstance(g, RowSum) else g for n, g in leaves(grads)}
    return {n: found[n] if n in found else namespace(p).zeros_like(p) for n, p in parameters.items()}
