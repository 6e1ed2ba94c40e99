"""A web application of one page. With --check it only proves that the page can be made."""

import sys
from wsgiref.util import setup_testing_defaults

from bottle import Bottle, run, template

app = Bottle()


@app.get("/hello/<name>")
def hello(name):
    return template("Hello, {{name}}.", name=name)


def check():
    status = []
    environ = {"PATH_INFO": "/hello/cooper"}
    setup_testing_defaults(environ)
    body = b"".join(app(environ, lambda line, headers, error=None: status.append(line)))
    assert status == ["200 OK"], status
    assert body == b"Hello, cooper.", body


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        check()
    else:
        run(app, host="0.0.0.0", port=8080)
