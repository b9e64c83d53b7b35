"""From files to documents: what the inputs are, where to cut them, and the text that is in them.

Four steps: `inputs.find_inputs` lists the files, `chunks.cut` cuts them into pieces of work,
`records.read_part` reads one piece anywhere, and what it yields is the same however it was cut.
"""
