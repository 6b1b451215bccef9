"""`emo serve`: a model behind HTTP, for people (a page) and for programs (the shapes of OpenAI's API).

A request goes through `door` (who may ask, how much is read), a route of `api` or `chat`, `pictures` (bytes and addresses become pictures),
`places` (how many may wait), `batcher` (one thread owns the model and takes what has come within a few milliseconds), `looking` (one call of
`EmotionModel` for them all), and back. What goes wrong is a `failures.ApiError`, in OpenAI's shape. `server` starts and ends it.
"""
