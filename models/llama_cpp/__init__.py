"""Language models in GGUF files, run by llama.cpp: one engine process for each model.

    backend.py    the Backend: model id → engine                      (server process)
    library.py    which model files there are, and what they can do
    gguf.py       what a GGUF file says of itself
    worker.py     an engine process from outside: start, feed, restart, stop
    protocol.py   what goes over the socket between the two
    engine.py     an engine process from inside: requests in, deltas out   (engine process)
    generation.py one answer, token by token
    context.py    a loaded model and the prompt it remembers
    vocabulary.py text ↔ tokens
    sampling.py   logits → token
    grammar.py    what tokens a schema or a tool choice allows
    template.py   messages → prompt, by the model's own chat template
    families.py   how families of models write tool calls and thoughts
    answer.py     generated text → deltas

Only the engine process imports llama.cpp: a crash in native code ends that process and the request at work in it.
"""

from models.llama_cpp.backend import LlamaCpp

__all__ = ["LlamaCpp"]
