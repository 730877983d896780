"""Load from beside the machine: HTTP by Host on fresh and on kept connections, and TCP on a virtual address.

Runs until the file of the first argument is gone; every connection and request is judged. Fails if one failed.
"""

import asyncio
import collections
import os
import sys
import time

STOP, TCP = sys.argv[1], (sys.argv[2], 9000)
HTTP = ("127.0.0.1", 15080)
HEAD = b"GET / HTTP/1.1\r\nHost: echo.shop.svc.clusterset.local\r\n"
PATIENCE_SECONDS = 60

done, slowest, failures = collections.Counter(), collections.defaultdict(float), collections.Counter()


def on():
    return os.path.exists(STOP)


async def fresh():
    reader, writer = await asyncio.open_connection(*HTTP)
    try:
        writer.write(HEAD + b"Connection: close\r\n\r\n")
        answer = await reader.read()
        if not answer.startswith(b"HTTP/1.1 200"):
            raise ValueError(f"answered {answer[:60]!r}")
    finally:
        writer.close()


async def kept():
    """One connection for as long as the server keeps it."""
    reader, writer = await asyncio.open_connection(*HTTP)
    try:
        while on():
            writer.write(HEAD + b"\r\n")
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            if not head.startswith(b"http/1.1 200"):
                raise ValueError(f"answered {head[:60]!r}")
            await reader.readexactly(2)
            done["requests on kept connections"] += 1
            if b"connection: close" in head:
                return
            await asyncio.sleep(0.002)
    finally:
        writer.close()


async def tcp():
    reader, writer = await asyncio.open_connection(*TCP)
    try:
        writer.write(b"hello")
        if await reader.readexactly(5) != b"hello":
            raise ValueError("another answer")
    finally:
        writer.close()


async def worker(kind, one):
    while on():
        began = time.monotonic()
        try:
            await asyncio.wait_for(one(), None if one is kept else PATIENCE_SECONDS)
            done[kind] += 1
        except Exception as error:
            failures[f"{kind}: {type(error).__name__} {error}"] += 1
        if one is not kept:
            slowest[kind] = max(slowest[kind], time.monotonic() - began)
        await asyncio.sleep(0.002)


async def answer_http(reader, writer):
    try:
        while True:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def answer_tcp(reader, writer):
    try:
        while data := await reader.read(4096):
            writer.write(data)
    except ConnectionError:
        pass
    writer.close()


async def main():
    await asyncio.start_server(answer_http, "127.0.0.1", 8081)
    await asyncio.start_server(answer_tcp, "127.0.0.1", 8082)
    kinds = [("http", fresh)] * 6 + [("kept", kept)] * 3 + [("tcp", tcp)] * 6
    await asyncio.gather(*(worker(kind, one) for kind, one in kinds))
    print("done:", dict(done), "slowest:", {kind: f"{seconds:.3f} s" for kind, seconds in slowest.items()})
    print("failures:", dict(failures) or "none", flush=True)
    # At once: the ends of idle connections are nobody's business.
    os._exit(1 if failures else 0)


asyncio.run(main())
