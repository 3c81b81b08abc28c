"""An asyncio server that hands its CPU-bound requests to a FairPool, and awaits them.

The event loop stays free: while the workers factor numbers, it answers `ping`. Results, errors,
cancellation and context variables cross from the loop to the pool and back. The program is its own
client: it serves on a free port of the loopback interface, asks, prints what it got, and exits with
status 1 if an answer is not what it should be.
"""

import argparse
import asyncio
import contextvars
import sys
import time

import fairpool

request_id = contextvars.ContextVar("request_id", default="none")
stopped_early = []


async def factor(number):
    """The prime factors of `number`: a task of the pool, which lets others go first at times."""
    if number < 2:
        raise ValueError(f"{number} has no prime factors (request {request_id.get()})")
    factors, divisor = [], 2
    try:
        while divisor * divisor <= number:
            while number % divisor == 0:
                factors.append(divisor)
                number //= divisor
            divisor += 1
            if divisor % 1000 == 0:
                await fairpool.yield_now()  # a cancellation is delivered here
    except fairpool.CancelledError:
        stopped_early.append(request_id.get())
        raise
    return [*factors, number] if number > 1 else factors


async def answer(pool, line):
    """The answer to one request line, computed on the pool if it is a number."""
    if line == "ping":
        return "pong"
    try:
        factors = await asyncio.wait_for(pool.submit(factor, int(line)), timeout=1.0)
    except ValueError as error:
        return f"error: {error}"
    except TimeoutError:
        return "error: gave up after 1 s"
    return f"{request_id.get()}: {' '.join(map(str, factors))}"


async def serve_client(pool, reader, writer):
    for number, line in enumerate((await reader.read()).decode().split("\n"), 1):
        request_id.set(f"r{number}")
        writer.write(f"{await answer(pool, line)}\n".encode())
    await writer.drain()
    writer.close()


async def ask(port, *lines):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write("\n".join(lines).encode())
    writer.write_eof()
    answers = (await reader.read()).decode().splitlines()
    writer.close()
    return answers


async def main(workers):
    with fairpool.FairPool(workers) as pool:
        server = await asyncio.start_server(
            lambda reader, writer: serve_client(pool, reader, writer), "127.0.0.1", 0
        )
        port = server.sockets[0].getsockname()[1]
        async with server:
            begin = time.perf_counter()
            busy = asyncio.create_task(ask(port, "1000003", str(2**61 - 1), "360", "1"))
            pongs = 0
            while not busy.done():
                pongs += await ask(port, "ping") == ["pong"]
            answers = await busy
            seconds = time.perf_counter() - begin
    print(*answers, sep="\n")
    print(f"{pongs} pings were answered in the {seconds:.1f} s that this took")
    print(f"stopped early: {' '.join(stopped_early)}")
    expected = ["r1: 1000003", "error: gave up after 1 s", "r3: 2 2 2 3 3 5"]
    expected.append("error: 1 has no prime factors (request r4)")
    return 0 if answers == expected and pongs and stopped_early == ["r2"] else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workers", type=int, default=None, help="default: one for each processor")
    sys.exit(asyncio.run(main(parser.parse_args().workers)))
