"""Language models in GGUF files, run by llama.cpp: one engine process for each model.

    backend.py    the Backend: model id → engine                      (server process)
    library.py    which model files there are, and what they can do
    projectors.py which projector belongs to which model
    gguf.py       what a GGUF file says of itself
    worker.py     the engine of one model from outside: fed, unloaded, started again
    places.py     which models may be in memory
    breaker.py    which may not be started, for a while, because they crash
    job.py        a request on its way through an engine
    tally.py      what an engine has done, over all its processes
    process.py    an engine process as a child of the server
    protocol.py   what goes over the socket between the two
    engine.py     an engine process from inside                       (engine process)
    chatting.py   chat in batches: one step for all requests at work
    embedding.py  embeddings in batches
    scheduler.py  which tokens go into the next batch
    cache.py      which tokens are in memory, and who can take them over
    context.py    a loaded model: batches in, logits or vectors out
    generation.py one answer on its way, token by token
    sampling.py   logits → token
    grammar.py    what tokens a schema or a tool choice allows
    rules.py      how such a grammar is written
    vocabulary.py text ↔ tokens
    template.py   messages → prompt, by the model's own chat template
    families/     how families of models write tool calls and thoughts
    answer.py     generated text → deltas
    reading.py    generated text as a parser reads it
    pictures.py   picture files: limits, then pixels
    vision.py     pictures → embeddings, by llama.cpp's mtmd

Only the engine process imports llama.cpp: a crash in native code ends that process and the requests at work in it.
"""

from models.llama_cpp.backend import LlamaCpp

__all__ = ["LlamaCpp"]
