"""Calls the Greeter of the sample: `python3 client.py HOST:PORT NAME...`. Needs grpcio and grpcio-tools."""

import pathlib
import sys

import grpc

sys.path.append(str(pathlib.Path(__file__).resolve().parent.parent / "guests/grpc/src"))
protos, services = grpc.protos_and_services("helloworld.proto")

target, names = sys.argv[1].removeprefix("http://").rstrip("/"), sys.argv[2:] or ["you"]
with grpc.insecure_channel(target) as channel:
    greeter = services.GreeterStub(channel)
    requests = [protos.HelloRequest(name=name) for name in names]
    try:
        print(greeter.SayHello(requests[0], timeout=10).message)
        for reply in greeter.SayHelloStreamReply(protos.HelloRequest(name=" ".join(names)), timeout=10):
            print("stream:", reply.message)
        for reply in greeter.SayHelloBidiStream(iter(requests), timeout=10):
            print("both ways:", reply.message)
    except grpc.RpcError as error:
        sys.exit(f"{error.code().name}: {error.details()}")
