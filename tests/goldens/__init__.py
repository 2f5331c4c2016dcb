"""What the library does today, kept as small files: signatures, the command line, the numbers of every kind of result, and folders.

The files under ``data`` are compared with what the code does now. Where behaviour is changed on purpose, write them anew, read the
difference, and commit it with the reason::

    python -m tests.goldens                    # all of them but the folders
    python -m tests.goldens signatures verbs   # some

``signatures.txt``
    Every public name and method: parameters with their kinds and defaults, without annotations and without a method's first one.
``verbs.txt``
    Every verb of the command line: its help, an ordinary call as text and as JSON, and a call that is refused.
``kinds.txt``
    A small result of every kind: variables, coordinates, numbers, and the rows of its frame.
``folders-0.1.0.zip``, ``folders-0.2.zip``
    A saved folder of every kind, as version 0.1.0 wrote it (commit e49de00, without digests) and as the version after it did. They are
    never written anew: they stand for the folders that people have. ``python -m tests.goldens folders`` made the second.

Texts are compared word by word and numbers within a tolerance (:mod:`tests.goldens.compare`), because processors round differently.
"""
