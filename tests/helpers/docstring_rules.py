"""What a docstring must say: plain rules, read from the signature and the source."""

import ast
import builtins
import functools
import inspect
import re
import textwrap

__all__ = ["complaints", "documentation", "is_documented_kind", "is_public"]

ENTRY = re.compile(r"(\*{0,2}\w+(?:, \*{0,2}\w+)*)(?: \((.*?)\))?:(?=\s|$)(.*)", re.S)


def is_public(name):
    return not name.startswith("_") or name == "__call__"


def is_documented_kind(member):
    kinds = (classmethod, staticmethod, property, functools.cached_property)
    return inspect.isfunction(member) or isinstance(member, kinds)


def function_of(value):
    """The function behind a method or property; what a class runs when it is made.

    None for a class that has none of its own.
    """
    if inspect.isclass(value):
        value = vars(value).get("__post_init__" if is_record(value) else "__init__")
    for name in ("__func__", "fget", "func"):
        value = getattr(value, name, value)
    return inspect.unwrap(value) if inspect.isfunction(value) else None


def is_record(value):
    fields = hasattr(value, "_fields") or hasattr(value, "__dataclass_fields__")
    return inspect.isclass(value) and fields


def is_protocol(value):
    return getattr(value, "_is_protocol", False)


def documentation(value):
    """The docstring; of a class, with that of its ``__init__``."""
    text = inspect.cleandoc(value.__doc__ or "")
    if inspect.isclass(value) and (function := function_of(value)):
        if not is_record(value):
            text += "\n\n" + inspect.cleandoc(function.__doc__ or "")
    return text


def section(text, *names):
    """The body of a section, dedented; "" where there is none."""
    head = "|".join(names)
    found = re.findall(rf"^(?:{head}):\n((?:[ ]+.*\n|\n)+)", text + "\n", re.M)
    return "\n".join(textwrap.dedent(body) for body in found)


def entries(body):
    """By name: type and text of what a section lists, (None, text) without a type."""
    found = {}
    for block in re.split(r"\n(?=\S)", body.strip()):
        if match := ENTRY.match(block):
            for name in match[1].split(", "):
                found[name.lstrip("*")] = (match[2], " ".join(match[3].split()))
    return found


def parameters(value):
    """Those of a function, a class's own ``__init__``, or the fields of a record."""
    function = function_of(value)
    if is_protocol(value) or (function is None and not is_record(value)):
        return {}
    found = inspect.signature(value if is_record(value) else function).parameters
    return {
        name: parameter
        for name, parameter in found.items()
        if name not in ("self", "cls") and not name.startswith("_")
    }


def complaints(value):
    """What a docstring lacks, or says and is not so."""
    text = documentation(value)
    if not text.strip():
        return ["no docstring"]
    checks = [of_errors, of_example, of_cost]
    if not is_short(value, text):
        checks += [of_arguments, of_returns]
    return [complaint for check in checks for complaint in check(value, text)]


def is_short(value, text):
    """Whether the first paragraph of a method says all of one or two arguments.

    Or whether it refers to the class, as methods do that make an object callable.
    """
    names = parameters(value)
    if not is_member(value) or len(names) > 2 or section(text, "Args"):
        return is_member(value) and bool(re.search(r"\bas in the class\b", text))
    first = text.partition("\n\n")[0]
    return all(re.search(rf"\b{name}\b", first) for name in names)


def of_arguments(value, text):
    expected = parameters(value)
    named = entries(section(text, "Args", "Attributes"))
    for name, parameter in expected.items():
        if name not in named:
            yield f"{name} is not documented"
            continue
        kind, said = named[name]
        variadic = parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        if said.startswith("As in :") and not kind:
            continue  # documented once, and elsewhere
        if not kind and not variadic:
            yield f"{name} has no type"
        if variadic:
            continue
        if wrong := another_type(parameter.annotation, kind or ""):
            yield f"{name} is {wrong}, not {kind}"
        default = parameter.default
        if default is parameter.empty and "Default:" in said:
            yield f"{name} has no default"
        if is_record(value) and ("Default:" not in said or not is_literal(default)):
            continue  # most defaults of records are those of what makes them
        if (default is parameter.empty) == ("optional" in (kind or "")):
            yield f"{name} is optional, or it is not"
        if default is not parameter.empty and not states(said, default):
            yield f"{name} has another default than {default!r}, or does not say it"
    if inspect.isclass(value) and not is_record(value):
        # Attributes are not parameters; one that is not there is a mistake too.
        expected = {**expected, **entries(section(text, "Attributes"))}
        if not parameters(value):
            return
    for name in named.keys() - expected.keys():
        yield f"{name} is documented and does not exist"


def another_type(annotation, kind):
    """The plain type of an annotation that a docstring calls otherwise, or None."""
    plain = getattr(annotation, "__name__", str(annotation)).removesuffix(" | None")
    plain = "str" if plain.startswith("Literal[") else plain
    if plain in ("int", "float", "bool", "str") and kind.split(",")[0] != plain:
        return plain
    return None


def is_literal(value):
    return value is None or isinstance(value, int | float | str | tuple)


def states(said, default):
    """Whether a text holds "Default: " and the value of the signature."""
    found = re.search(r"Default: (.*)", said)
    if found is None:
        return False
    claim = found[1].replace("`", "").replace("'", '"')
    claim = re.sub(r"(?<=\d),(?=\d{3})", "", claim)  # thousands
    literal = repr(default).replace("'", '"')
    return re.match(re.escape(literal) + r"(?!\w|\.\d)", claim) is not None


def of_returns(value, text):
    function = function_of(value)
    if inspect.isclass(value) or function is None or is_property(value):
        return
    returned = inspect.signature(function).return_annotation
    if returned in (None, "None", inspect.Signature.empty):
        return
    owner = function.__qualname__.partition(".")[0]
    if isinstance(value, classmethod) and returned in ("Self", owner):
        return  # a constructor
    if not section(text, "Returns", "Yields"):
        yield "no Returns"


def is_property(value):
    return isinstance(value, property | functools.cached_property)


def of_errors(value, text):
    said = section(text, "Raises")
    function = function_of(value)
    if is_member(value) and function.__name__ in ("__call__", "forward"):
        # What makes an object callable is described where the class is.
        owner = function.__qualname__.partition(".")[0]
        said += section(documentation(function.__globals__[owner]), "Raises")
    for error in sorted(raised_by(function)):
        if not re.search(rf"^{error}:", said, re.M):
            yield f"{error} is raised and not documented"
    for error in entries(said):
        if not isinstance(getattr(builtins, error, None), type):
            yield f"{error} is no error"


def raised_by(function):
    """Errors that the body raises, or a function of its module that it calls."""
    if function is None or not function.__module__.startswith("captum_margin"):
        return set()  # what is inherited is documented where it is from
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    errors = errors_in(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            helper = function.__globals__.get(node.func.id)
            if inspect.isfunction(helper) and helper.__module__ == function.__module__:
                source = textwrap.dedent(inspect.getsource(inspect.unwrap(helper)))
                errors |= errors_in(ast.parse(source))
    return errors


def errors_in(tree):
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            if isinstance(node.exc.func, ast.Name):
                names.add(node.exc.func.id)
    return names - {"NotImplementedError"}  # nothing that another argument would mend


def of_example(value, text):
    if is_member(value) or is_protocol(value):
        return
    if ">>> " in with_members(value, text):
        return
    if inspect.isclass(value):
        children = [documentation(one) for one in value.__subclasses__()]
        if any(">>> " in text for text in children):
            return  # a template, which those made of it show
    # The example of a record is that of what makes it.
    if not (is_record(value) and re.search(r":(func|meth|class):`", text)):
        yield "no example"


def is_member(value):
    if is_property(value) or isinstance(value, classmethod | staticmethod):
        return True
    return inspect.isfunction(value) and "." in value.__qualname__


def of_cost(value, text):
    if is_member(value) or is_record(value) or is_protocol(value):
        return
    if not re.search(r"^ *Cost: ", with_members(value, text), re.M):
        yield "no cost"


def with_members(value, text):
    """A docstring; of a class with those of its methods."""
    if not inspect.isclass(value):
        return text
    members = filter(is_documented_kind, vars(value).values())
    return "\n".join([text, *(member.__doc__ or "" for member in members)])
