// A web application of one page. With --check it only proves that the page can be made.
'use strict';

const assert = require('node:assert');
const http = require('node:http');
const mustache = require('mustache');

function page(name) {
  return mustache.render('Hello, {{name}}.', { name });
}

if (process.argv[2] === '--check') {
  assert.strictEqual(page('<cooper>'), 'Hello, &lt;cooper&gt;.');
} else {
  http
    .createServer((request, response) => {
      const { pathname } = new URL(request.url, 'http://localhost');
      response.end(page(decodeURIComponent(pathname.slice(1))));
    })
    .listen(8080);
}
