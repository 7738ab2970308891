"""``r1kit serve``: a model behind the HTTP interface that OpenAI's clients speak.

A request is checked (bodies.py) and its prompt becomes ids (served.py). Its rollouts join the running batch
(batcher.py), which one thread decodes. Their tokens become text, thinking and answer (text.py), and the
shapes of OpenAI's interface (shapes.py). app.py is the only file that imports a web framework; guard.py looks
at every request before that."""
