"""Batch mode: the same questions through the OpenAI Batch API, at its price, into the same ledger under the same cache keys.

A batch goes through these states, each on disk before the next step is taken:

`collecting`  its requests are written to a file in the store; nothing has left the machine. After a crash it is dropped.
`creating`    the file is uploaded (which costs nothing) and the batch is about to be created. After a crash the provider is asked
              whether it knows a batch with our token in its metadata: if so it is taken over, else it is dropped.
`created`     the provider works on it. After a crash it is polled again.
`ended`       all that it brought is in the ledger.

So a request that was paid in a batch is never paid again, at whatever instant the program is killed.
"""
