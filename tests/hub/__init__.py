"""A Hub on this machine, for the real client.

`server.Hub` speaks the read side of the Hub over HTTP on loopback: who am I, info, tree, refs, and resolve with ETag, redirect to a
content server, and ranges. `repos.Repo` is what it serves; `faults.Fault` is what goes wrong on the way. The client is huggingface_hub
itself, pointed here by ``HF_ENDPOINT``. What the server answers was taken from the client's own source (which headers and error codes it
looks at) and from the Hub's documentation; each answer has one method. A new endpoint is a new line in `server.ROUTES` and its method.
"""
