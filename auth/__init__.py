"""Who may call: users, passwords, tokens, API keys, and what a request may do with them.

It keeps nothing itself: `UserStore`, `KeyStore` and `SessionStore` say what it needs kept, and `gateway.access.Access`
wires the parts. The application then takes two of them:

    app = Litestar([...], middleware=[authentication(access.identity)], guards=[guards.scope])

A handler has `request.user: Principal`. Its `opt` says who may come: with `{"public": True}` everybody, with
`{"scope": "chat"}` users, and keys that are not limited to other things. Without either it is closed to limited keys.
All errors are `auth.errors.AuthError`.
"""
