import EtcdProtocol
import NIOCore
import NIOPosix
import RPC

/// Measures; see `Benchmarks/run`.
@main
struct Bench {
    static let usage = """
        coffer-bench versus --ours HOST:PORT:PID[,…] [--peer HOST:PORT:PID[,…]] [--rounds 5] [--seconds 4] [--cases put,range]
                            [--loads 1/1,10/100,100/1000] [--value-bytes 256] [--prefix TEXT] [--results FILE] [--goals]
        coffer-bench leader --targets HOST:PORT:PID,…        prints its position, once all agree
        coffer-bench failover --targets HOST:PORT:PID,… --kill PID    prints milliseconds
        coffer-bench write --targets HOST:PORT:PID,… --count N
        coffer-bench caught-up --target HOST:PORT --with HOST:PORT:PID,…
        coffer-bench record --case NAME --ours MS,… --peer MS,… [--results FILE] [--goals]
        coffer-bench micro [--results FILE]
        coffer-bench ping --target HOST:PORT
        coffer-bench frame --out FILE
        coffer-bench serve --directory DIR --key-file FILE [--port 0] [--audit FILE]
        """

    static func main() async {
        blockTermination()
        do {
            var options = try Options(Array(CommandLine.arguments.dropFirst()))
            switch options.command {
            case "versus": try await versus(&options)
            case "micro": try micro(&options)
            case "serve":
                guard let directory = options["directory"], let keyFile = options["key-file"] else { throw Failure(usage) }
                try await Serve.run(directory: directory, keyFile: keyFile, port: Int(options["port"] ?? "0") ?? 0, audit: options["audit"])
            case "leader": try await ClusterCases.leader(&options)
            case "failover": try await ClusterCases.failover(&options)
            case "write": try await ClusterCases.write(&options)
            case "caught-up": try await ClusterCases.caughtUp(&options)
            case "record": try ClusterCases.record(&options)
            case "ping": try await ping(&options)
            case "frame": try frame(&options)
            default: throw Failure(usage)
            }
        } catch {
            printError("coffer-bench: \(error)")
            exitProcess(1)
        }
    }

    private static func versus(_ options: inout Options) async throws {
        guard let ours = options["ours"].flatMap(ServiceUnderTest.init) else { throw Failure(usage) }
        let seconds = Double(options["seconds"] ?? "4") ?? 4, valueBytes = Int(options["value-bytes"] ?? "256") ?? 256
        var loads: [Load] = []
        for kind in (options["cases"] ?? "put,range").split(separator: ",") {
            guard let kind = Load.Kind(rawValue: String(kind)) else { throw Failure("no case \(kind)") }
            for shape in (options["loads"] ?? "1/1,10/100,100/1000").split(separator: ",") {
                let parts = shape.split(separator: "/").compactMap { Int($0) }
                guard parts.count == 2, parts[0] > 0, parts[1] >= parts[0] else { throw Failure("no load \(shape): connections/clients") }
                loads.append(Load(
                    kind: kind, connections: parts[0], clients: parts[1], seconds: seconds, valueBytes: valueBytes, prefix: options["prefix"] ?? ""))
            }
        }
        let versus = Versus(
            ours: ours, peer: options["peer"].flatMap(ServiceUnderTest.init), loads: loads, rounds: Int(options["rounds"] ?? "5") ?? 5,
            resultsPath: options["results"])
        let results = try await versus.run()
        if options["goals"] != nil { try results.checkGoals() }
    }

    /// Succeeds when a server answers.
    private static func ping(_ options: inout Options) async throws {
        let parts = (options["target"] ?? "").split(separator: ":")
        guard parts.count == 2, let port = Int(parts[1]) else { throw Failure(usage) }
        let client = try await Client.connect(host: String(parts[0]), port: port, on: MultiThreadedEventLoopGroup.singleton)
        let request = try MessageFraming.framed(capacity: 16, allocator: ByteBufferAllocator()) { buffer throws in
            try RangeRequestMessage(key: [0x61]).encode(into: &buffer)
        }
        _ = try await client.unary(path: "/etcdserverpb.KV/Range", message: request, timeout: .seconds(1))
        await client.close()
    }

    /// One framed Put, for generators that send a file.
    private static func frame(_ options: inout Options) throws {
        guard let path = options["out"] else { throw Failure(usage) }
        let put = PutRequestMessage(key: Array("bench/00000000".utf8), value: ByteBuffer(repeating: 0x76, count: 256))
        let bytes = try MessageFraming.framed(capacity: 512, allocator: ByteBufferAllocator()) { buffer throws in try put.encode(into: &buffer) }
        try writeFile(Array(bytes.readableBytesView), to: path)
    }

    private static func micro(_ options: inout Options) throws {
        for result in try Micro.sealing() + Micro.index() {
            let peer = result.peer.map { " / bare \(fixed($0, 0)) = \(fixed(result.ours / $0, 2))" } ?? ""
            say(padded(result.name, 22), "\(fixed(result.ours, 0)) \(result.metric)\(peer)")
            if let path = options["results"] { try appendLine(result.line, to: path) }
        }
    }
}

/// `command --name value --switch`.
struct Options {
    let command: String
    private var values: [String: String] = [:]
    init(_ arguments: [String]) throws {
        command = arguments.first ?? ""
        var index = 1
        while index < arguments.count {
            guard arguments[index].hasPrefix("--") else { throw Failure("unexpected \(arguments[index])") }
            let name = String(arguments[index].dropFirst(2))
            if index + 1 < arguments.count, !arguments[index + 1].hasPrefix("--") {
                values[name] = arguments[index + 1]
                index += 2
            } else {
                values[name] = ""
                index += 1
            }
        }
    }
    subscript(name: String) -> String? { values[name] }
}
