"""Answers that must keep to a schema."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest

from models.backend import BackendFailed, InvalidRequest, JsonOutput
from models.messages import CallDelta, Delta
from models.structured import check_schema, conforming

pytestmark = pytest.mark.anyio

PLACE = {
    "type": "object",
    "properties": {"city": {"$ref": "#/$defs/City"}},
    "required": ["city"],
    "additionalProperties": False,
    "$defs": {"City": {"type": "string", "minLength": 2}},
}


async def said(*deltas: Delta) -> AsyncIterator[Delta]:
    for delta in deltas:
        yield delta


async def text_of(written: str, size: int, output: JsonOutput, finish: Any = "stop") -> str:
    pieces = [Delta(written[i : i + size]) for i in range(0, len(written), size)]
    deltas = [delta async for delta in conforming(said(*pieces, Delta(finish=finish)), output)]
    assert deltas[-1].finish == finish
    return "".join(delta.text for delta in deltas)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize(
    "written",
    [
        '{"city": "Rome"}',
        ' \n{"city": "Rome"}',
        '```json\n{"city": "Rome"}\n```',
        '```\n{"city": "Rome"}\n```\n',
        '\n```JSON \r\n{"city": "Rome"}\r\n``` \n',
        '```json{"city": "Rome"}```',
        '```json\n{"city": "Rome"}',
    ],
)
async def test_one_fence_is_taken_off(written: str, size: int) -> None:
    assert (await text_of(written, size, JsonOutput(PLACE))).strip() == '{"city": "Rome"}'


@pytest.mark.parametrize("size", [1, 4, 1000])
async def test_fences_within_strings_stay(size: int) -> None:
    written = '{"city": "```py\\nx\\n``` ` ``"}'
    assert await text_of(f"```json\n{written}\n```", size, JsonOutput(PLACE)) == written
    assert await text_of(written, size, JsonOutput(PLACE)) == written


async def test_deltas_without_text_pass_unchanged() -> None:
    deltas = [Delta(thought="Hm."), Delta(calls=(CallDelta(0, "f", "{}"),)), Delta(finish="tool_calls")]
    assert [delta async for delta in conforming(said(*deltas), JsonOutput(PLACE))] == deltas


async def test_text_is_not_held_back_without_a_fence() -> None:
    deltas = [Delta('{"city"'), Delta(": "), Delta('"Rome"}', finish="stop")]
    assert [delta async for delta in conforming(said(*deltas), JsonOutput(PLACE))] == deltas


@pytest.mark.parametrize(
    ("written", "schema", "reason"),
    [
        ("Sure!", None, "it is not JSON"),
        ("[1]", None, "it is not a JSON object"),
        ("", PLACE, "it is not JSON"),
        ('```json\n{"city": "Rome"}\n```\nHope it helps!', PLACE, "it is not JSON"),
        ('{"city": "R"}', PLACE, "$.city: 'R' is too short"),
        ('{"city": "Rome", "x": 1}', PLACE, "Additional properties are not allowed"),
    ],
)
async def test_what_does_not_conform_fails(written: str, schema: Any, reason: str) -> None:
    with pytest.raises(BackendFailed) as raised:
        await text_of(written, 4, JsonOutput(schema))
    assert raised.value.message.startswith("The model's answer does not match response_format: ")
    assert reason in raised.value.message


@pytest.mark.parametrize("finish", ["length", "content_filter"])
async def test_what_was_cut_off_is_passed_on(finish: str) -> None:
    assert await text_of('{"city": "Ro', 4, JsonOutput(PLACE), finish) == '{"city": "Ro'


async def test_closing_closes_the_source() -> None:
    closed = False

    async def source() -> AsyncIterator[Delta]:
        nonlocal closed
        try:
            yield Delta("{")
            yield Delta("}", finish="stop")
        finally:
            closed = True

    async with aclosing(conforming(source(), JsonOutput())) as deltas:  # type: ignore[type-var]
        assert await anext(deltas) == Delta("{")
    assert closed


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "sound"}, "$.type: 'sound' is not valid"),
        ({"$ref": "http://169.254.169.254/schema"}, "'http://169.254.169.254/schema' is not a reference within"),
        ({"properties": {"a": {"items": {"$ref": "file:///etc/passwd"}}}}, "is not a reference within"),
        ({"$ref": "#/$defs/absent"}, "is not a reference within"),
        ({"$dynamicRef": "http://x/y"}, "is not a reference within"),
        ({"$ref": "#/enum/0", "enum": [{"patternProperties": {"(a+)+$": {}}}]}, "there is no schema at '#/enum/0'"),
        ({"patternProperties": {"(a+)+$": {}}}, "patternProperties is not supported"),
        ({"pattern": "("}, "is not a 'regex'"),
    ],
)
async def test_bad_schemas_are_refused_at_the_door(schema: Any, reason: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        await check_schema(schema)
    assert raised.value.param == "response_format"
    assert reason in raised.value.message


async def test_schemas_too_deep_are_refused() -> None:
    schema: dict[str, Any] = {}
    for _ in range(900):
        schema = {"not": schema}
    with pytest.raises(InvalidRequest, match="nested too deeply"):
        await check_schema(schema)


async def test_properties_may_have_the_names_of_keywords() -> None:
    await check_schema(
        {"properties": {"$ref": {"type": "string"}, "patternProperties": {}, "pattern": {}}, "enum": [{"$ref": 1}]}
    )


async def test_schemas_may_refer_to_themselves() -> None:
    tree = {"type": "object", "properties": {"next": {"$ref": "#"}}}
    assert await text_of('{"next": {"next": {}}}', 5, JsonOutput(tree)) == '{"next": {"next": {}}}'
    with pytest.raises(InvalidRequest, match="without an end"):
        await text_of("{}", 5, JsonOutput({"$ref": "#"}))


async def test_a_schema_whose_levels_double_the_work_is_given_up() -> None:
    levels = {f"{i}": {"allOf": [{"$ref": f"#/$defs/{i + 1}"}] * 2} for i in range(40)}
    schema = {"$ref": "#/$defs/0", "$defs": levels | {"40": {"type": "object"}}}
    await check_schema(schema)
    with pytest.raises(InvalidRequest, match="it takes too long"):
        await text_of("{}", 5, JsonOutput(schema))


async def test_a_long_schema_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="longer than 131,072 bytes"):
        await check_schema({"enum": ["x" * 131_072]})


async def test_an_answer_nested_without_measure_is_no_json() -> None:
    with pytest.raises(BackendFailed, match="does not match"):
        await text_of('{"a":' * 100_000, 100_000, JsonOutput())


async def test_a_pattern_cannot_stop_the_server() -> None:
    evil = {"type": "object", "properties": {"a": {"type": "string", "pattern": "^(a+)+$"}}}
    answer = '{"a": "' + "a" * 60 + '!"}'
    assert await text_of(answer, 20, JsonOutput(evil)) == answer
