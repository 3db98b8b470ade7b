"""The audit of one inference: every operation that a student does, of what kind, how often, and its share."""

from ..model.operations import KINDS

MEANS = {
    "spike-driven": "sums and comparisons that spikes cause, and membranes",
    "shift": "shifts and sums of accumulators, no product",
    "constant": "products with a constant of the time step",
    "float": "floating-point operations on rates",
}


def audit(model, counts, constants, time_steps):
    """[{operation, kind, count, share, pj}] per text, of a run of `time_steps`; share: of all operations.

    model: an energy.Model. pj without memory. The membranes of all populations are one operation.
    """
    texts, rows = int(counts.texts[0]), {}
    for line in model.lines(counts, time_steps):
        name = "membranes" if line.operation.endswith(".membrane") else line.operation
        row = rows.setdefault((name, line.kind), {"count": 0, "pj": 0.0})
        row["count"] += sum(line.work.values())
        row["pj"] += sum(n * getattr(constants, key) for key, n in line.work.items())
    total = sum(row["count"] for row in rows.values())
    return [
        {
            "operation": name,
            "kind": kind,
            "count": row["count"] / texts,
            "share": row["count"] / total,
            "pj": row["pj"] / texts,
        }
        for (name, kind), row in rows.items()
    ]


def by_kind(rows):
    """{kind: (count, share, pj)} of an audit, every kind there is."""
    return {k: tuple(sum(r[c] for r in rows if r["kind"] == k) for c in ("count", "share", "pj")) for k in KINDS}


def audit_table(rows):
    """The audit as lines of text: the kinds, then the operations, most first, of all encoders together."""
    lines = ["  kind            operations     share   what it is"]
    for kind, (count, share, _) in by_kind(rows).items():
        lines.append(f"  {kind:<14}{count:12,.0f}  {100 * share:6.2f} %   {MEANS[kind]}")
    lines += ["", "  operation                                   kind            operations     share"]
    together = {}
    for row in rows:
        key = general(row["operation"]), row["kind"]
        count, share = together.get(key, (0, 0))
        together[key] = count + row["count"], share + row["share"]
    for (name, kind), (count, share) in sorted(together.items(), key=lambda item: -item[1][0]):
        lines.append(f"  {name:<44}{kind:<14}{count:12,.0f}  {100 * share:6.2f} %")
    return "\n".join(lines)


def general(operation):
    """The name of an operation without its encoder: output.dense of encoder.layer.2.output.dense."""
    head, _, rest = operation.partition("encoder.layer.")
    return rest.partition(".")[2] if rest and not head else operation
