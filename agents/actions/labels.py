"""The labels of a ReAct text, in the languages and the dress in which models write them: `**Action:** python`."""

# ruff: noqa: RUF001 (labels in all scripts)

import re
import unicodedata
from collections.abc import Iterator
from typing import Literal

from msgspec import Struct

Kind = Literal["thought", "action", "input", "observation", "final", "question", "result"]

_WORDS: dict[Kind, str] = {
    "thought": """
        thought, thoughts, thinking, reasoning, rationale, gedanke, gedanken, überlegung, pensée, réflexion,
        raisonnement, pensamiento, razonamiento, pensamento, raciocínio, pensiero, ragionamento, мысль, размышление,
        рассуждение, 思考, 想法, 思路, 考え, 생각, 사고, düşünce, myśl, gedachte, tanke, ajatus, myšlenka, gondolat,
        gând, думка, σκέψη, تفكير, فكرة, מחשבה, विचार, suy nghĩ, pikiran, pemikiran, ความคิด
    """,
    "action": """
        action, actions, next action, action name,
        tool, tool name, tool call, tool to use, tool used, function, function name,
        function call, aktion, handlung, werkzeug, outil, acción, herramienta, ação, acção, ferramenta, azione,
        strumento, действие, инструмент, 行动, 行動, 动作, 動作, 操作, 工具, 工具名称, 调用工具, アクション, ツール,
        행동, 액션, 동작, 도구, eylem, aksiyon, araç, akcja, działanie, narzędzie, actie, gereedschap, handling,
        åtgärd, verktyg, toiminto, akce, nástroj, cselekvés, művelet, acțiune, дія, ενέργεια, إجراء, الإجراء, פעולה,
        कार्रवाई, क्रिया, hành động, tindakan, aksi, การกระทำ
    """,
    "input": """
        action input, actions input, input, inputs, tool input, function input, action arguments, arguments,
        argument, args, tool arguments, tool args, function arguments, parameters, parameter, params,
        action parameters, tool parameters, eingabe, aktionseingabe, handlungseingabe, aktion eingabe,
        eingabe der aktion, argumente, entrée, entrée de l'action, entrée action, entrée d'action, saisie,
        paramètres, arguments de l'action, entrada, entrada de la acción, entrada de acción, entrada da ação,
        entrada de ação, argumentos, parámetros, parâmetros, input dell'azione, input azione, ingresso, parametri,
        argomenti, ввод, ввод действия, входные данные, вход, входные данные действия, входные данные для действия,
        параметры, аргументы, 输入, 输入参数, 动作输入, 行动输入, 行動輸入, 操作输入, 工具输入, 参数, 參數, 入力,
        アクション入力, アクションの入力, 行動入力, 行動の入力, 引数, パラメータ, 입력, 행동 입력, 액션 입력,
        동작 입력, 도구 입력, 매개변수, girdi, eylem girdisi, aksiyon girdisi, parametreler, dane wejściowe,
        dane wejściowe akcji, wejście, wejście akcji, parametry, argumenty, invoer, actie invoer, actie input,
        åtgärdsindata, indata, handlingsinput, syöte, toiminnon syöte, vstup, vstup akce, bemenet, intrare,
        вхідні дані, είσοδος, إدخال, مدخلات, مدخلات الإجراء, קלט, קלט פעולה, इनपुट, कार्रवाई इनपुट, đầu vào,
        đầu vào hành động, masukan, masukan tindakan, input aksi
    """,
    "observation": """
        observation, observations, observ, tool response, tool result, tool results, tool output, function result,
        function response, function output, action output, action result, action response, beobachtung,
        beobachtungen, observación, observação, osservazione, наблюдение, 观察, 观察结果, 觀察, 観察, 観察結果,
        观测, 관찰, 관찰 결과, gözlem, obserwacja, observatie, observasjon, havainto, pozorování, megfigyelés,
        observație, спостереження, παρατήρηση, ملاحظة, الملاحظة, תצפית, अवलोकन, quan sát, observasi, pengamatan,
        การสังเกต
    """,
    "final": """
        final answer, the final answer, final response, final, answer, my final answer, endgültige antwort,
        finale antwort, abschließende antwort, schlussantwort, antwort, réponse finale, réponse, respuesta final,
        respuesta, resposta final, resposta, risposta finale, risposta, окончательный ответ, итоговый ответ,
        финальный ответ, ответ, 最终答案, 最終答案, 最终回答, 最終回答, 最終的な回答, 最终回复, 最终结果, 答案,
        回答, 答え, 最終的な答え, 최종 답변, 최종 답, 최종 응답, 답변, 답, nihai cevap, son cevap, nihai yanıt,
        son yanıt, cevap, yanıt, ostateczna odpowiedź, końcowa odpowiedź, finalna odpowiedź, odpowiedź,
        definitief antwoord, eindantwoord, uiteindelijke antwoord, antwoord, slutgiltigt svar, slutsvar,
        endelig svar, svar, lopullinen vastaus, vastaus, konečná odpověď, odpověď, végső válasz, válasz,
        răspuns final, răspuns, остаточна відповідь, відповідь, τελική απάντηση, απάντηση, الإجابة النهائية,
        الجواب النهائي, תשובה סופית, अंतिम उत्तर, उत्तर, câu trả lời cuối cùng, jawaban akhir, jawaban,
        คำตอบสุดท้าย
    """,
    "question": """
        question, user question, frage, pregunta, pergunta, domanda, вопрос, 问题, 問題, 質問, 질문, soru, pytanie
    """,
    "result": """
        result, results, output, execution result, ergebnis, résultat, resultado, risultato, результат, 结果, 結果,
        결과
    """,
}


class Label(Struct, frozen=True):
    """A label in a text."""

    kind: Kind
    start: int
    """Where it begins, with what decorates it."""
    content: int
    """Where that begins for which it stands."""
    dress: str = ""
    """What stands before its word: "**", "###", "-"."""
    inline: bool = False
    """Whether it stands in the middle of a line."""


def fold_label(words: str) -> str:
    """The letters of a label without case and accents."""
    if not words.isascii():
        split = unicodedata.normalize("NFKD", words.casefold())
        words = "".join(letter for letter in split if unicodedata.category(letter) != "Mn")
    return "".join(filter(str.isalpha, words)).casefold()


_KINDS: dict[str, Kind] = {fold_label(word): kind for kind, words in _WORDS.items() for word in words.split(",")}

_AT_LINE_START = re.compile(
    # "Action: …", "**Action**: …", "2. Action Input (JSON): …"; nothing that is quoted, or is code.
    r"^[ ]{0,3}(?P<label>[^\s\"'“”‘’„«:\uff1a\ufe55|=<>{}\[\](),;/][^\n\"“”:\uff1a\ufe55|=<>{}\[\],;/]{0,59})"
    r"[:\uff1a\ufe55]"
    # "### Action" and "**Action**" on a line of their own.
    r"|^[ ]{0,3}(?P<heading>\#{1,6}[ \t]*[^\n:\uff1a]{1,40}?|(?P<bold>\*\*|__)[^\n:\uff1a*]{1,40}?(?P=bold))[ \t\#]*$",
    re.MULTILINE,
)
_INLINE = re.compile(
    r"[.!?;)。！？][ \t]*[*_]{0,2}(?P<label>(?:Final Answer|Action)(?= ?[:*_]))[*_]{0,2} ?:[*_]{0,2}[ \t]*"
)
_INLINE_INPUT = re.compile(
    r"[,;|\s]\s*[*_]{0,2}(?:Action|Tool)?[ _\\]{0,2}(?:Input|Arguments|Args|Parameters|参数|输入)[*_]{0,2}"
    r"\s?[:\uff1a\ufe55][*_]{0,2}[ \t]*",
    re.IGNORECASE,
)
_LETTER = re.compile(r"[^\W_]")
_PARENTHESIS = re.compile(r"\([^()]*\)")


def labels(text: str) -> Iterator[Label]:
    """The labels of a text, in their order."""
    at_start = _at_line_start(text)
    inline = _within_lines(text)
    following = next(inline, None)
    for label in at_start:
        while following and following.start < label.start:
            yield following
            following = next(inline, None)
        yield label
    while following:
        yield following
        following = next(inline, None)


def _at_line_start(text: str) -> Iterator[Label]:
    for found in _AT_LINE_START.finditer(text):
        written = found["label"] or found["heading"]
        plain = _PARENTHESIS.sub("", written) if "(" in written else written
        kind = _KINDS.get(fold_label(plain))
        if kind is None:
            continue
        first = _LETTER.search(written)
        dress = written[: first.start()].strip() if first else ""
        content = found.end()
        # "**Action:** python": the bold type ends after the colon.
        while found["label"] and content < len(text) and text[content] in "*_" and text[content] in dress:
            content += 1
        yield Label(kind, found.start(), content, dress)


def _within_lines(text: str) -> Iterator[Label]:
    for found in _INLINE.finditer(text):
        kind: Kind = "action" if found["label"] == "Action" else "final"
        yield Label(kind, found.start() + 1, found.end(), inline=True)


def inline_input(text: str, start: int, end: int) -> re.Match[str] | None:
    """The label of an action's input on the action's own line."""
    return _INLINE_INPUT.search(text, start, min(end, start + 256))
