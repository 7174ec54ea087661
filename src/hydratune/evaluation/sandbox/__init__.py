"""A program of its own that executes untrusted Python under limits, and then tests it.

It uses the standard library only, and imports its modules relatively: it runs from this folder
without hydratune (``python -I -S sandbox/__main__.py``). It reads one JSON object per line from
standard input, and answers each with a line of JSON: the token of the request and the verdict.

Three processes share the work, so that the process that prints the verdict never runs the code of
an answer:

- the program, which with the argument ``namespaces`` enters new namespaces (processes, network,
  files);
- the judge, the first process of the new namespace: it starts the workers, keeps the time, and ends
  every process that is left;
- a worker for every run, which gives up its rights, executes the answer and the tests, and reports
  through a socket of its own.

The tests call functions of the answer, so both run in one interpreter, and an answer can always do
what the code after the tests does. While it runs, no frame of its process holds the text of the
tests or a nonce: the judge sends the nonce when the worker reports that the tests are done. An
answer that passes is run again on controls, which are tests with an assertion made false (see
controls.py). Where these pass as well, or where what the answer returns is equal to everything, the
verdict is an error. An answer is not found out if it takes part in the worker's protocol and knows
which tests are right, or if it was written against the tests of one row.
"""
