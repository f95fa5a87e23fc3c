"""Serves a plug-in written in Python: `python3 runner.py FILE`. Requests and answers are a line of JSON each, with numbers (little-endian
doubles) behind it where the line says how many."""
import array
import functools
import importlib.util
import inspect
import itertools
import json
import os
import re
import sys
import traceback

# What a file must have one function of, and the arguments that it gets beside the first; all others are its options.
KINDS = {"alpha": "noise schedule", "attn_mask_ratio": "annealing schedule", "documents": "batch transform", "noised": "batch transform"}
GIVEN = {"batch transform": ("seq", "seed")}
# Functions that it may have as well.
MORE = {"noise schedule": ("alpha_derivative", "weight")}
TYPES = {bool: "boolean", int: "integer", float: "number", str: "string"}
# Whatever the file prints goes to stderr: stdout is the host's.
answers = os.fdopen(os.dup(1), "wb")
os.dup2(2, 1)


class Refused(Exception):
    """A wrong configuration; the first argument is its JSON Pointer."""


def answer(line, numbers=None):
    # What numpy, PyArrow and torch have for numbers becomes Python's.
    answers.write(json.dumps(line, allow_nan=False, default=lambda value: value.tolist()).encode() + b"\n")
    if numbers is not None:
        numbers = array.array("d", numbers)
        if sys.byteorder == "big":
            numbers.byteswap()
        answers.write(numbers.tobytes())
    answers.flush()


def problem(error):
    """What went wrong in the file, and in which of its lines."""
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == FILE]
    where = f" (line {own[-1].lineno})" if own else f" (line {error.lineno})" if isinstance(error, SyntaxError) and error.lineno else ""
    return f"{type(error).__name__}: {error}{where}"


def described(module):
    """What the file is, and its function."""
    names = [name for name in KINDS if callable(getattr(module, name, None))]
    if len(names) != 1:
        raise ValueError(f"found {' and '.join(names) or 'none'}; wanted one function "
                         "alpha(t, …), attn_mask_ratio(step, …), documents(rows, …) or noised(rows, …)")
    parameters = list(inspect.signature(getattr(module, names[0])).parameters.values())
    if not parameters:
        raise ValueError(f"{names[0]} takes no argument; wanted t, step or rows, then options with defaults")
    text = inspect.getdoc(module) or ""
    options = {}
    for parameter in parameters[1:]:
        if parameter.name in GIVEN.get(KINDS[names[0]], ()):
            continue
        default = parameter.default
        if type(default) not in TYPES:
            raise ValueError(f"option `{parameter.name}` of {names[0]} has the default {default!r}; wanted a number, a text or a truth value"
                             if default is not parameter.empty else f"option `{parameter.name}` of {names[0]} has no default")
        # A line `name: what it does` of the docstring.
        said = re.search(rf"^\s*{re.escape(parameter.name)}: *(.+)$", text, re.MULTILINE)
        options[parameter.name] = {"type": TYPES[type(default)], "default": default, "description": said[1] if said else f"of {names[0]}"}
    stem = os.path.splitext(os.path.basename(FILE))[0]
    get = lambda name, default: str(getattr(module, name, default))
    return names[0], {
        "kind": KINDS[names[0]], "id": get("ID", "python." + re.sub(r"[^A-Za-z0-9._-]", "-", stem)), "name": get("NAME", stem),
        "version": get("VERSION", "0"), "vendor": get("VENDOR", "local"), "license": get("LICENSE", "not said"),
        "description": text.split("\n")[0] or f"{stem}.py", "functions": [name for name in (names[0], *MORE.get(KINDS[names[0]], ())) if hasattr(module, name)],
        "config_schema": {"type": "object", "additionalProperties": False, "properties": options},
    }


def options_of(text, schema):
    """The configuration as keyword arguments."""
    try:
        given = json.loads(text)
    except ValueError as error:
        raise Refused("", f"not JSON: {error}") from None
    if not isinstance(given, dict):
        raise Refused("", f"found {text}; wanted an object")
    for name, value in given.items():
        option = schema["properties"].get(name)
        if option is None:
            raise Refused("/" + name, f"unknown option; allowed: {', '.join(schema['properties']) or 'none'}")
        wanted = type(option["default"])
        if wanted is float and type(value) is int:
            given[name] = float(value)
        elif type(value) is not wanted:
            raise Refused("/" + name, f"found {value!r}; wanted a {option['type']}")
    return given


def difference(alpha, t):
    """α′(t) of a file without alpha_derivative."""
    low, high = max(0.0, t - 1e-6), min(1.0, t + 1e-6)
    return min(0.0, (alpha(high) - alpha(low)) / (high - low))


def transformed(function, request):
    """The columns of a batch after its rows have gone through the function."""
    columns = request["columns"]
    rows = [dict(zip(columns, values)) for values in zip(*columns.values())]
    given = {name: request[name] for name in GIVEN["batch transform"] if name in inspect.signature(function).parameters}
    rows = function(rows, **given)
    if rows is None:
        raise ValueError("it gave None; wanted the rows, or yield for each")
    rows = list(rows)
    for number, row in enumerate(rows):
        if not isinstance(row, dict) or row.keys() != columns.keys():
            found = f"the columns {', '.join(map(str, row))}" if isinstance(row, dict) else repr(row)
            raise ValueError(f"row {number} of what it gave has {found}; wanted the columns {', '.join(columns)}")
    columns = {name: [row[name] for row in rows] for name in columns}
    for name in request["fractions"]:
        # As texts, which no reader rounds.
        columns[name] = [repr(float(value)) for value in columns[name]]
    return columns


def serve(module):
    main, about = described(module)
    answer(about)
    instances = {}
    for line in sys.stdin.buffer:
        request = json.loads(line)
        call = request["call"]
        if call == "destroy":
            # Nobody waits for an answer.
            instances.pop(request["instance"])
            continue
        try:
            if call == "create":
                options = options_of(request["config"], about["config_schema"])
                functions = {name: getattr(module, name) for name in about["functions"]}
                # A function may take fewer of the options than the main one.
                takes = {name: [one for one in options if one in inspect.signature(function).parameters] for name, function in functions.items()}
                bound = {name: functools.partial(function, **{one: options[one] for one in takes[name]}) for name, function in functions.items()}
                bound.setdefault("alpha_derivative", lambda t: difference(bound["alpha"], t))
                number = next(number for number in itertools.count(1) if number not in instances)
                instances[number] = bound
                answer({"instance": number})
                continue
            if call == "process":
                answer({"columns": transformed(instances[request["instance"]][main], request)})
                continue
            numbers = array.array("d")
            numbers.frombytes(sys.stdin.buffer.read(8 * request["count"]))
            if sys.byteorder == "big":
                numbers.byteswap()
            function = instances[request["instance"]][call]
            if call == "attn_mask_ratio":
                numbers = map(int, numbers)
            values = array.array("d", [float(function(x)) for x in numbers])
            answer({"count": len(values)}, values)
        except Refused as refused:
            answer({"pointer": refused.args[0], "error": refused.args[1]})
        except Exception as error:
            answer({"error": problem(error)})


FILE = sys.argv[1]
try:
    spec = importlib.util.spec_from_file_location("schedule", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, os.path.dirname(os.path.abspath(FILE)))
    sys.dont_write_bytecode = True
    spec.loader.exec_module(module)
    described(module)
except Exception as error:
    answer({"error": problem(error)})
    sys.exit(1)
serve(module)
