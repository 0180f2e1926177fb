"""How a tool is made from a function, and what the toolbox does for every tool."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from msgspec import Meta, Struct

from models.backend import ToolSpec
from tools import File, Output, Session, Tool, Toolbox, ToolError, tool
from tools.toolbox import Called

pytestmark = pytest.mark.anyio


class Place(Struct):
    """Where."""

    city: str
    country: str = "NO"


async def weather(
    session: Session,
    city: str,
    days: Annotated[int, Meta(ge=1, le=7)] = 1,
    tags: list[str] | None = None,
    unit: Literal["c", "f"] = "c",
) -> str:
    """Tells the weather.

    It is made up.

    Args:
        city: the city's name,
            as people write it.
        days: how many days ahead.

    Returns:
        A sentence.
    """
    return f"{session.id}: {city} {days!r} {tags} {unit}"


async def near(place: Place, exact: bool = False) -> dict[str, Any]:
    """Finds what is near."""
    return {"city": place.city, "country": place.country, "exact": exact}


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return Session(tmp_path)


def test_a_tool_is_made_from_signature_and_docstring() -> None:
    made = tool(weather)
    assert made.spec == ToolSpec(
        "weather",
        "Tells the weather.\n\nIt is made up.",
        {
            "type": "object",
            "properties": {
                "city": {"description": "the city's name, as people write it.", "type": "string"},
                "days": {
                    "description": "how many days ahead.",
                    "type": "integer",
                    "minimum": 1,
                    "maximum": 7,
                    "default": 1,
                },
                "tags": {"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "null"}], "default": None},
                "unit": {"enum": ["c", "f"], "default": "c"},
            },
            "required": ["city"],
            "additionalProperties": False,
        },
    )
    assert made.unavailable() is None


def test_structs_and_bound_functions_make_tools() -> None:
    class Shop:
        async def price(self, item: str) -> str:
            """Tells a price."""
            return item

    made = tool(Shop().price, name="shop.price")
    assert (made.name, made.parameters["required"]) == ("shop.price", ["item"])
    assert tool(near).parameters["$defs"]["Place"]["required"] == ["city"]


def test_a_function_without_types_is_no_tool() -> None:
    async def odd(thing, *more) -> str:  # type: ignore[no-untyped-def]
        return ""

    with pytest.raises(TypeError, match="odd: the parameter 'thing' has no type"):
        tool(odd)


@pytest.mark.parametrize(
    ("arguments", "output"),
    [
        ({"city": "Oslo"}, "local: Oslo 1 None c"),
        ('{"city": "Oslo", "days": 3}', "local: Oslo 3 None c"),
        ({"city": "Oslo", "days": "3"}, "local: Oslo 3 None c"),
        ({"city": "Oslo", "days": 3.0}, "local: Oslo 3 None c"),
        ({"city": 7}, "local: 7 1 None c"),
        ({"city": "Oslo", "tags": '["a", "b"]'}, "local: Oslo 1 ['a', 'b'] c"),
        ({"city": "Oslo", "tags": None}, "local: Oslo 1 None c"),
        ({"city": "[1]"}, "local: [1] 1 None c"),
    ],
)
async def test_arguments_are_taken_as_models_write_them(arguments: Any, output: str, session: Session) -> None:
    result = await Toolbox([tool(weather)]).run("weather", arguments, session)
    assert (result.output, result.error) == (output, None)


TAKES = (
    "It takes city (string, required), days (integer, optional), tags (array, optional), unit (one of c, f, optional)."
)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({}, f"Wrong arguments for weather: Object missing required field `city`. {TAKES}"),
        ({"city": "x", "days": 9}, f"Wrong arguments for weather: Expected `int` <= 7 - at `days`. {TAKES}"),
        ({"city": "x", "days": "many"}, f"Wrong arguments for weather: Expected `int`, got `str` - at `days`. {TAKES}"),
        ({"city": "x", "days": 2.5}, f"Wrong arguments for weather: Expected `int`, got `float` - at `days`. {TAKES}"),
        ({"city": True}, f"Wrong arguments for weather: Expected `str`, got `bool` - at `city`. {TAKES}"),
        ({"city": "x", "colour": 1}, f"Wrong arguments for weather: Object contains unknown field `colour`. {TAKES}"),
        ({"city": "x", "unit": "k"}, f"Wrong arguments for weather: Invalid enum value 'k' - at `unit`. {TAKES}"),
        ("{", "The arguments of weather are not valid JSON: Input data was truncated."),
        ("[" * 100_000, "The arguments of weather are not valid JSON: Input data was truncated."),
        ("[1]", "The arguments of weather must be a JSON object."),
    ],
)
async def test_wrong_arguments_come_back_as_what_to_do(arguments: Any, error: str, session: Session) -> None:
    result = await Toolbox([tool(weather)]).run("weather", arguments, session)
    assert (result.output, result.files) == ("", ())
    assert result.error is not None
    if not isinstance(arguments, str) or len(arguments) < 100:
        assert result.error == error
    else:
        assert result.error.startswith("The arguments of weather are not valid JSON: ")


async def test_values_become_json(session: Session) -> None:
    result = await Toolbox([tool(near)]).run("near", {"place": '{"city": "Oslo"}', "exact": "true"}, session)
    assert (result.output, result.error) == ('{"city":"Oslo","country":"NO","exact":true}', None)


async def test_an_unknown_tool_is_answered_with_those_that_there_are(session: Session) -> None:
    result = await Toolbox([tool(weather), tool(near)]).run("wether", {}, session)
    assert result.error == "There is no tool 'wether'. Tools are: weather, near."


async def _odd(behave: Callable[[], Any]) -> Tool:
    async def odd() -> Any:
        """Is odd."""
        result = behave()
        return await result if asyncio.iscoroutine(result) else result

    return tool(odd)


def _raise(error: Exception) -> Any:
    raise error


@pytest.mark.parametrize(
    ("behave", "error"),
    [
        (lambda: asyncio.Event().wait(), "odd did not end within 0.05 seconds and was stopped."),
        (lambda: _raise(ToolError("There is no such thing.")), "There is no such thing."),
        (lambda: _raise(ZeroDivisionError("secret")), "odd failed inside. Try something else."),
    ],
)
async def test_failures_are_told_to_the_model(behave: Callable[[], Any], error: str, session: Session) -> None:
    called: list[Called] = []
    box = Toolbox([await _odd(behave)], timeout=0.05, observe=called.append)
    result = await box.run("odd", {}, session)
    assert (result.output, result.error) == ("", error)
    assert [(call.tool, call.user_id, call.failed) for call in called] == [("odd", "local", True)]
    assert result.seconds == called[0].seconds


async def test_cancelling_a_call_cancels_the_tool(session: Session) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def patient() -> str:
        """Waits."""
        try:
            begun.set()
            await asyncio.Event().wait()
        finally:
            ended.set()
        return ""

    call = asyncio.create_task(Toolbox([tool(patient)]).run("patient", {}, session))
    await begun.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert ended.is_set()


async def test_a_long_output_loses_its_middle(session: Session) -> None:
    async def long() -> str:
        """Talks."""
        return "a" * 5000 + "z" * 5000

    result = await Toolbox([tool(long)], longest=3000).run("long", {}, session)
    assert result.output == "a" * 2000 + "\n[… 7000 characters left out …]\n" + "z" * 1000


async def test_files_that_a_tool_makes_are_kept_and_told(session: Session) -> None:
    async def draw(session: Session) -> Output:
        """Draws."""
        (session.folder / "plot.png").write_bytes(b"12345")
        return Output("drawn", ("plot.png",), "but badly")

    result = await Toolbox([tool(draw)]).run("draw", {}, session)
    assert result.files == (File("plot.png", "image/png", 5),)
    assert (result.output, result.error) == ("drawn", "but badly")
    assert result.text == "drawn\n\nFiles:\nplot.png (image/png, 5 bytes)\n\nError: but badly"


async def test_what_cannot_be_used_is_not_offered_and_says_why(session: Session) -> None:
    off = tool(weather, unavailable=lambda: "no key is set.")
    box = Toolbox([off, tool(near)])
    assert [spec.name for spec in box.specs()] == ["near"]
    assert set(box.tools()) == {"weather", "near"}
    result = await box.run("weather", {"city": "Oslo"}, session)
    assert result.error == "The tool weather is not available: no key is set."


async def test_tools_of_a_source_come_and_go(session: Session) -> None:
    class Source:
        now: tuple[Tool, ...] = ()

        def tools(self) -> tuple[Tool, ...]:
            return self.now

    source = Source()
    box = Toolbox([tool(near), source])
    assert set(box.tools()) == {"near"}
    source.now = (tool(weather), tool(weather, name="near"))
    assert set(box.tools()) == {"near", "weather"}
    assert (await box.run("near", {"place": {"city": "Oslo"}}, session)).error is None


async def test_a_session_of_a_script_knows_its_folder(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.csv").write_text("a,b\n")
    (tmp_path / "link").symlink_to("/etc/passwd")
    assert await Session(tmp_path).files() == (File("sub/a.csv", "text/csv", 4),)
