"""Paid endpoints: how a question becomes a reply that is paid for once, whatever happens meanwhile.

The way of a question:

1. `request.Request` holds prompt, image and the form of the reply. Its cache key is a hash of all that decides the reply.
2. `caller.Caller` looks the key up in the ledger: a reply that was bought before costs nothing. `reply_schema` reads it as a
   pydantic model; one that cannot be used is asked again, with what was wrong (`follow_up`).
3. `attempts.Attempts` buys what is not there: it waits for `rate` (requests per second that the provider permits), `budget` (the most
   that the request can cost must fit, see `prices` and `image_tokens`), `outage` (an endpoint that answers nobody) and room on the disk;
   writes the intent to the ledger; sends; writes the raw answer and its cost. Each attempt is a row of the ledger.
4. `batch` does the same through a Batch API: questions are collected in files, and replies come hours later, at half the price.
5. `health` stops a pass whose endpoint gives nothing of use; `workers` and `interrupt` run many questions at a time and end in order.

What depends on the provider stands behind `base.Provider`: where to post, which headers carry the key, the JSON of a question, how
an answer is read (`received`: six kinds, four of them paid), what the headers say of the rate, which errors are final, and the Batch
API if there is one.
`openai` is the one that is there; it serves every OpenAI-compatible endpoint.

To add a provider with an API of its own:

1. Write `provider/NAME.py` with a subclass of `Provider`: `name`, `path`, `headers`, `body`, `read`, `max_output_tokens`. The rest has
   defaults: JSON over HTTP, rates found from refusals (429), no batches. `read` must never raise; `received.paid` sorts what
   was billed, and `Usage.plausible` is how much.
2. Add it to the tuple in `registry.PROVIDERS`.
3. Name it in the endpoint's configuration: `provider: NAME`, with `parameters` in the provider's own names, and its prices in the
   price table.

`tests/data_prep/provider/test_native_provider.py` holds a whole one, and a pass over it.
"""
