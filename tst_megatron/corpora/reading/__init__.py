"""From files to documents: what the inputs are, where to cut them, and the text that is in them.

Three steps: `inputs.find_inputs` lists the files, `chunks.cut` cuts them into pieces of work, and
`chunks.read_span` reads one span of a file anywhere; what that yields is the same however it was
cut.
"""
