"""What must hold in every program: known instructions, defined inputs, fitting widths, complete attributes."""

from __future__ import annotations

from forerun.compiler.formats import FLOAT_FORMATS, FORMATS
from forerun.compiler.opset import EPILOGUES, INPUT, INTERLEAVE, READING_EPILOGUES, ROLES, OpSpec, spec_of
from forerun.compiler.program import Buffer, Instruction, Program
from forerun.errors import ArtifactError

_DTYPES = ("f32", "q15", "i32")
_MOST_COLUMNS = 1 << 24
_MOST_FREQUENCY = 1 << 20
_BEYOND = 1 << 31
"""No attribute reaches it, so that each fits the native core's numbers."""
_STEP_ROWS = ("embedding", "embed", "rope_kv", "attention")
"""They need the tokens and positions of a step's rows, which the sampled rows no longer are."""


Held = dict[str | int, tuple[str, int]]
"""Place -> the buffer whose values lie there, and how many of its columns, from the first one on."""


def validate(program: Program) -> None:
    """Raise ArtifactError with one line for the first thing that does not fit."""
    _check_tables(program)
    held: Held = {INPUT: (INPUT, 1)}
    for number, step in enumerate(program.instructions):
        where = f"program instruction {number} ({step.op})"
        spec = spec_of(step.op, len(step.inputs))
        if spec is None:
            raise ArtifactError(f"{where}: there is no such instruction")
        _check_operands(program, step, spec, where)
        _check_attrs(step, spec, where)
        _check_places(program, step, where, held)
        problem = _misfit(program, step)
        if problem:
            raise ArtifactError(f"{where}: {problem}")
    if not program.instructions or program.instructions[-1].op != "sample":
        raise ArtifactError("program: the last instruction must be 'sample'")
    if not all(abs(value) <= _MOST_FREQUENCY for value in program.rope_inv_freq):
        raise ArtifactError("program: a rotary frequency is out of range")
    _check_layers(program)
    _check_tables_of_tokens(program)


def _check_tables(program: Program) -> None:
    if not 0 < program.rope_scale <= _MOST_FREQUENCY:
        raise ArtifactError(f"program: rope_scale {program.rope_scale} must be a positive number within 2^20")
    for name, buffer in program.buffers.items():
        good = buffer.name == name and buffer.dtype in _DTYPES and buffer.rows in ("rows", "sampled")
        if not good or not 1 <= buffer.width <= _MOST_COLUMNS:
            raise ArtifactError(f"program buffer '{name}': bad entry {buffer}")
    for name, weight in program.weights.items():
        if weight.name != name or weight.format not in FORMATS:
            raise ArtifactError(f"program weight '{name}': unknown format '{weight.format}'")
        shaped = len(weight.shape) in (1, 2) and all(1 <= size <= _MOST_COLUMNS for size in weight.shape)
        if not shaped or weight.interleave not in (0, INTERLEAVE) or not weight.sources:
            raise ArtifactError(f"program weight '{name}': bad shape {weight.shape}, interleave or no sources")
        if len(weight.shape) == 1 and weight.format != "float32":
            raise ArtifactError(f"program weight '{name}': a vector must be float32, not {weight.format}")
    given = program.buffers.get(INPUT)
    if given is None or (given.dtype, given.width, given.rows) != ("i32", 1, "rows"):
        raise ArtifactError(f"program: the buffer '{INPUT}' (i32, one column per row) is missing")


def _check_operands(program: Program, step: Instruction, spec: OpSpec, where: str) -> None:
    for names, dtypes in ((step.inputs, spec.inputs), (step.outputs, spec.outputs)):
        if len(names) != len(dtypes):
            raise ArtifactError(f"{where}: takes {len(spec.inputs)} inputs and {len(spec.outputs)} outputs")
        for name, dtype in zip(names, dtypes, strict=True):
            if name not in program.buffers:
                raise ArtifactError(f"{where}: there is no buffer '{name}'")
            if program.buffers[name].dtype not in dtype.split("|"):
                raise ArtifactError(f"{where}: buffer '{name}' is {program.buffers[name].dtype}, expected {dtype}")
    for role in spec.weights:
        if role not in step.weights:
            raise ArtifactError(f"{where}: the weight '{role}' is missing")
    for role, name in step.weights.items():
        if role not in spec.weights + spec.optional_weights:
            raise ArtifactError(f"{where}: takes no weight '{role}'")
        if name not in program.weights:
            raise ArtifactError(f"{where}: there is no weight '{name}'")


def _check_places(program: Program, step: Instruction, where: str, held: Held) -> None:
    """What is read must have been written, and its memory not given to another buffer since."""
    read = step.inputs + (step.outputs if step.attrs.get("epilogue") in READING_EPILOGUES else ())
    needs = [(name, program.buffers[name].width) for name in read]
    if step.attrs.get("column"):
        needs.append((step.outputs[0], _int(step, "column")))
    for name, columns in needs:
        found, filled = held.get(_place(program.buffers[name]), ("", 0))
        if not found:
            raise ArtifactError(f"{where}: reads '{name}' before anything writes it")
        if found != name:
            raise ArtifactError(f"{where}: reads '{name}', whose memory holds '{found}' by then")
        if filled < columns:
            raise ArtifactError(f"{where}: reads '{name}' before {columns} columns of it are written")
    inputs, outputs = ({_place(program.buffers[name]) for name in names} for names in (step.inputs, step.outputs))
    if INPUT in outputs or inputs & outputs:
        raise ArtifactError(f"{where}: writes one of its inputs")
    held.update({_place(program.buffers[name]): (name, _end_column(program, step)) for name in step.outputs})


def _place(buffer: Buffer) -> str | int:
    return buffer.name if buffer.slot is None else buffer.slot


def _check_attrs(step: Instruction, spec: OpSpec, where: str) -> None:
    if set(step.attrs) != set(spec.attrs):
        raise ArtifactError(f"{where}: attributes are {sorted(step.attrs)}, expected {sorted(spec.attrs)}")
    for key, value in step.attrs.items():
        if not isinstance(value, spec.attrs[key]) or isinstance(value, bool):
            raise ArtifactError(f"{where}: attribute {key} = {value!r:.60} has the wrong type")
        if isinstance(value, int | float) and not 0 <= value < _BEYOND:
            raise ArtifactError(f"{where}: attribute {key} = {value!r:.60} is out of range")


def _misfit(program: Program, step: Instruction) -> str:
    """What does not fit between the widths and shapes of one instruction, or an empty string."""
    ins = [program.buffers[name].width for name in step.inputs]
    out = program.buffers[step.outputs[0]].width
    shapes = {role: program.weights[name].shape for role, name in step.weights.items()}
    rows = {program.buffers[name].rows for name in step.inputs + step.outputs}
    if step.op == "select_rows":
        names = (step.inputs[0], step.outputs[0])
        if [program.buffers[name].rows for name in names] != ["rows", "sampled"]:
            return "goes from 'rows' to 'sampled'"
    elif len(rows) != 1:
        return "mixes 'rows' and 'sampled' buffers"
    elif "sampled" in rows and step.op in _STEP_ROWS:
        return "works on 'rows', not on 'sampled'"
    elif "rows" in rows and step.op == "sample":
        return "works on 'sampled', not on 'rows'"
    if step.op == "linear":
        return _linear_misfit(program, step, ins[0], out)
    if step.op in ("embedding", "embed"):
        shape = shapes["table"]
        return "" if len(shape) == 2 and shape[1] == out else f"a table {shape} cannot give {out} columns"
    if step.op == "sample":
        return "" if out == 1 else "gives one token per row"
    if step.op in ("rope_kv", "attention"):
        return _attention_misfit(program, step, ins, out, shapes)
    if any(width != out for width in ins):
        return f"input widths {ins} differ from the output's {out}"
    if step.op in ("rope", "rms_norm_heads") and out % _int(step, "head_dim"):
        return f"width {out} is not a multiple of head_dim"
    wanted = (_int(step, "head_dim"),) if step.op == "rms_norm_heads" else (out,)
    if "weight" in shapes and shapes["weight"] != wanted:
        return f"weight {shapes['weight']} does not fit {wanted}"
    return ""


def _linear_misfit(program: Program, step: Instruction, width_in: int, width_out: int) -> str:
    weight = program.weights[step.weights["weight"]]
    epilogue, splits = step.attrs["epilogue"], _int(step, "k_splits")
    if epilogue not in EPILOGUES or step.attrs["role"] not in ROLES:
        return f"unknown epilogue '{epilogue}' or role '{step.attrs['role']}'"
    if splits < 1 or splits & (splits - 1) or splits > (width_in + 63) // 64:
        return f"k_splits {splits} is not a power of two within {width_in} columns"
    if len(weight.shape) != 2 or weight.shape[1] != width_in:
        return f"weight {weight.shape} does not fit {width_in} input columns"
    if (epilogue == "silu_mul") != (weight.interleave != 0):
        return "interleaved weights and the silu_mul epilogue go together"
    column, interleaved = _int(step, "column"), epilogue == "silu_mul"
    if column < 0 or column % INTERLEAVE or (interleaved and column):
        return f"column {column} cannot be the first of a part"
    if weight.shape[0] > (width_out - column) * (2 if interleaved else 1):
        return f"weight {weight.shape} does not fit {width_out - column} output columns"
    bias = step.weights.get("bias")
    if bias is not None and program.weights[bias].shape != weight.shape[:1]:
        return f"bias {program.weights[bias].shape} does not fit weight {weight.shape}"
    dtype = program.buffers[step.inputs[0]].dtype
    is_quantised = dtype != "f32"
    if is_quantised == (weight.format in FLOAT_FORMATS) and program.is_final:
        return f"a {weight.format} weight cannot read {dtype} activations"
    return ""


def _end_column(program: Program, step: Instruction) -> int:
    """The end of the columns that an instruction writes; a linear's panels are padded with zeros."""
    width = program.buffers[step.outputs[0]].width
    if step.op != "linear" or step.attrs["epilogue"] == "silu_mul":
        return width
    rows = program.weights[step.weights["weight"]].shape[0]
    return min(width, _int(step, "column") + -(-rows // INTERLEAVE) * INTERLEAVE)


def _attention_misfit(
    program: Program, step: Instruction, ins: list[int], out: int, shapes: dict[str, tuple[int, ...]]
) -> str:
    heads, kv_heads, dim = (_int(step, key) for key in ("heads", "kv_heads", "head_dim"))
    if heads < 1 or kv_heads < 1 or heads % kv_heads or dim < 2 or dim % 2:
        return f"{heads} heads of {dim} over {kv_heads} key heads cannot be"
    if not 2 <= 2 * len(program.rope_inv_freq) <= dim:
        return f"the program has {len(program.rope_inv_freq)} rotary frequencies for head_dim {dim}"
    widths = [heads * dim, kv_heads * dim, kv_heads * dim]
    expected = [sum(widths)] if step.op == "rope_kv" else widths[: len(ins)]
    if ins != expected or out != heads * dim:
        return f"widths {ins} -> {out}, expected {expected} -> {heads * dim}"
    window = step.attrs.get("window")
    if isinstance(window, int) and window < 1:
        return f"window {window} must be at least 1"
    if step.op == "rope_kv" and set(shapes) != ({"q_norm", "k_norm"} if step.attrs["qk_norm"] is not None else set()):
        return "q_norm, k_norm and the attribute qk_norm go together"
    if any(shape != (dim,) for shape in shapes.values()):
        return f"head norms must have {dim} entries"
    return ""


def _check_layers(program: Program) -> None:
    kinds = {op: [s.attrs for s in program.instructions if s.op == op] for op in ("attention", "rope_kv")}
    count = len(kinds["attention"])
    for op, steps in kinds.items():
        if [attrs["layer"] for attrs in steps] != list(range(count if op == "attention" or steps else 0)):
            raise ArtifactError(f"program: the {op} layers must be numbered 0, 1, 2 ... in order")
    if len({(attrs["kv_heads"], attrs["head_dim"]) for steps in kinds.values() for attrs in steps}) > 1:
        raise ArtifactError("program: all attention layers must have the same key heads and head_dim")


def _check_tables_of_tokens(program: Program) -> None:
    """Every token that can be drawn can be looked up again."""
    for step in program.instructions:
        table = step.weights.get("table")
        if table is not None and program.weights[table].shape[0] < program.vocab_size:
            shape = program.weights[table].shape
            raise ArtifactError(f"program: the table '{table}' {shape} is shorter than the {program.vocab_size} logits")


def _int(step: Instruction, key: str) -> int:
    value = step.attrs[key]
    assert isinstance(value, int)
    return value
