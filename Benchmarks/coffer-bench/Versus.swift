import NIOCore
import NIOPosix

/// Ours against the peer: the same load, in turns, on the same machine; medians of the rounds.
struct Versus {
    var ours: ServiceUnderTest
    var peer: ServiceUnderTest?
    var loads: [Load]
    var rounds: Int
    var resultsPath: String?

    private static let columns = ["throughput": "requests/s", "cpu_per_op": "CPU µs", "p50": "p50 µs", "p99": "p99 µs", "memory": "RSS MiB"]
    private static let metrics = ["throughput", "cpu_per_op", "p50", "p99", "memory"]

    private static func value(_ metric: String, _ measurement: Measurement) -> Double {
        switch metric {
        case "throughput": measurement.throughput
        case "cpu_per_op": measurement.cpuPerRequestMicroseconds
        case "p50": measurement.p50Microseconds
        case "p99": measurement.p99Microseconds
        default: measurement.residentMebibytes
        }
    }

    func run() async throws -> [Figure] {
        let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
        if let load = loads.first(where: { $0.kind == .range }) {
            try await load.fill(ours, group: group)
            if let peer { try await load.fill(peer, group: group) }
        }
        var results: [Figure] = []
        say(padded("case", 30), Self.metrics.map { padded(Self.columns[$0] ?? $0, 26) }.joined())
        for load in loads {
            var mine: [Measurement] = [], theirs: [Measurement] = []
            for round in 0..<rounds {
                // Who begins alternates, so that neither always follows the other's flushes.
                if round % 2 == 0 { mine.append(try await load.run(against: ours, group: group)) }
                if let peer { theirs.append(try await load.run(against: peer, group: group)) }
                if round % 2 == 1 { mine.append(try await load.run(against: ours, group: group)) }
            }
            var cells = ""
            for metric in Self.metrics {
                let result = Figure(
                    name: load.name, metric: metric, ours: median(mine.map { Self.value(metric, $0) }),
                    peer: theirs.isEmpty ? nil : median(theirs.map { Self.value(metric, $0) }))
                results.append(result)
                cells += padded(Self.cell(result), 26)
            }
            say(padded(load.name, 30), cells)
        }
        if let resultsPath { for result in results { try appendLine(result.line, to: resultsPath) } }
        try await group.shutdownGracefully()
        return results
    }

    static func cell(_ result: Figure) -> String {
        let digits = ["cpu_per_op", "milliseconds"].contains(result.metric) ? 1 : 0
        guard let peer = result.peer else { return fixed(result.ours, digits) }
        return "\(fixed(result.ours, digits)) / \(fixed(peer, digits)) = \(fixed(peer == 0 ? 0 : result.ours / peer, 2))"
    }
}
