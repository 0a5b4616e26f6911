"""Debian's Chromium without a window: what a page shows, says in the console, and asks the network for."""

import contextlib
import dataclasses
import http.server
import shutil
import subprocess
import threading

import pytest

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
needs_browser = pytest.mark.skipif(BROWSER is None, reason="Chromium is not installed: apt install chromium")


@dataclasses.dataclass
class Shown:
    """The page after it has loaded: its elements, its lines in the console, the addresses it asked for."""

    dom: str
    console: list
    requests: list


@contextlib.contextmanager
def proxy():
    """A proxy on this machine that answers nothing; yields its port and the addresses asked for."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

        do_CONNECT = do_POST = do_GET

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_port, asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def show(path, folder, *options):
    """Loads a file; `folder` is for what the browser keeps."""
    with proxy() as (port, asked):
        command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        command += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
        command += ["--enable-logging=stderr", f"--user-data-dir={folder / 'browser'}", "--no-first-run"]
        command += [f"--proxy-server=127.0.0.1:{port}", *options, "--dump-dom", f"file://{path}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    # The browser's own services ask for these.
    own = ("google", "gstatic", "chromium", "chrome")
    return Shown(done.stdout, console, [address for address in asked if not any(n in address for n in own)])
