"""A second implementation of the protocol, written from docs/spec and the .proto alone.

It keeps everything in memory and its K3 in another process, and imports nothing of `signer`. It exists so that the suite
is known to judge the protocol rather than one program, and so that the suite can be shown to notice what is broken.
"""
