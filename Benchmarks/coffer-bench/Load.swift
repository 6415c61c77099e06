import EtcdProtocol
import NIOCore
import NIOHPACK
import NIOPosix
import RPC

/// What is asked of a server: always so many requests outstanding, each client sending its next when its last is answered.
struct Load: Sendable {
    enum Kind: String, Sendable { case put, range }
    var kind: Kind
    var connections: Int
    var clients: Int
    var seconds: Double
    var warmUpSeconds = 1.0
    var valueBytes = 256
    var keys = 10_000

    var name: String { "\(kind.rawValue)-\(valueBytes)B-\(connections)/\(clients)" }
}

struct Measurement: Sendable {
    var throughput: Double
    var p50Microseconds: Double
    var p99Microseconds: Double
    var cpuPerRequestMicroseconds: Double
    var residentMebibytes: Double
    var failures: Int
}

/// A server under test: where it listens, and its process, whose CPU time is what the kernel counted.
struct ServerUnderTest: Sendable {
    var host: String
    var port: Int
    var processID: Int

    init?(_ text: String) {
        let parts = text.split(separator: ":")
        guard parts.count == 3, let port = Int(parts[1]), let processID = Int(parts[2]) else { return nil }
        self.host = String(parts[0])
        self.port = port
        self.processID = processID
    }

    /// User and system time, in microseconds.
    func cpuMicroseconds() throws -> Double {
        let text = try readText("/proc/\(processID)/stat")
        // The second field, the command's name, may contain spaces; fields are counted after its parenthesis.
        guard let close = text.lastIndex(of: ")") else { throw Failure("malformed /proc/\(processID)/stat") }
        let fields = text[close...].split(separator: " ")
        guard fields.count > 13, let user = Double(fields[12]), let system = Double(fields[13]) else { throw Failure("malformed /proc/\(processID)/stat") }
        return (user + system) * 1_000_000 / ticksPerSecond()
    }
    func residentMebibytes() throws -> Double {
        for line in try readText("/proc/\(processID)/status").split(separator: "\n") where line.hasPrefix("VmRSS:") {
            if let kibibytes = line.split(whereSeparator: { $0 == " " || $0 == "\t" }).dropFirst().first.flatMap({ Double($0) }) { return kibibytes / 1024 }
        }
        throw Failure("no VmRSS in /proc/\(processID)/status")
    }
}

/// One connection's share of the clients. Event loop only.
private final class Driver: AnswerReceiver {
    private let connection: ClientConnection
    private let headers: HPACKHeaders
    private var template: ByteBuffer
    private let keyOffset: Int
    private let keys: Int
    private var generator: SeededDigits
    private var begun: [UInt64]
    private let clients: Int
    var measures = false
    var stopped = false
    private(set) var open = 0
    private(set) var answered = 0
    private(set) var failures = 0
    private(set) var lastFailure: Status?
    var latencies = Histogram()

    init(_ connection: ClientConnection, _ load: Load, clients: Int, seed: UInt64) throws {
        self.connection = connection
        self.clients = clients
        keys = load.keys
        generator = SeededDigits(seed: seed)
        begun = Array(repeating: 0, count: clients)
        let key = Array("bench/00000000".utf8)
        switch load.kind {
        case .put:
            headers = connection.headers(path: "/etcdserverpb.KV/Put")
            let request = PutRequestMessage(key: key, value: ByteBuffer(repeating: 0x76, count: load.valueBytes))
            template = try MessageFraming.framed(capacity: 512, allocator: ByteBufferAllocator()) { buffer throws in try request.encode(into: &buffer) }
        case .range:
            headers = connection.headers(path: "/etcdserverpb.KV/Range")
            let request = RangeRequestMessage(key: key)
            template = try MessageFraming.framed(capacity: 64, allocator: ByteBufferAllocator()) { buffer throws in try request.encode(into: &buffer) }
        }
        // Both requests begin with the key: prefix, tag, length, "bench/", then the digits.
        keyOffset = MessageFraming.prefixBytes + 2 + 6
    }

    func start() {
        for client in 0..<clients { send(client) }
        connection.flush()
    }

    private func send(_ client: Int) {
        var message = template
        message.setBytes(generator.digits(below: keys), at: keyOffset)
        open += 1
        begun[client] = monotonicNanoseconds()
        connection.call(headers, message: message, token: client, receiver: self)
    }

    func answered(_ token: Int, _ result: Result<ByteBuffer, Status>) {
        open -= 1
        if case .failure(let status) = result {
            failures += 1
            lastFailure = status
        }
        if measures {
            answered += 1
            latencies.add(nanoseconds: monotonicNanoseconds() - begun[token])
        }
        if !stopped, failures < 1_000 { send(token) }
    }
}

/// Eight decimal digits at random (SplitMix64).
private struct SeededDigits {
    private var state: UInt64
    init(seed: UInt64) { state = seed }
    mutating func digits(below bound: Int) -> [UInt8] {
        state &+= 0x9e37_79b9_7f4a_7c15
        var z = state
        z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
        z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
        var rest = Int((z ^ (z >> 31)) % UInt64(bound))
        var digits = [UInt8](repeating: UInt8(ascii: "0"), count: 8)
        for place in stride(from: 7, through: 0, by: -1) {
            digits[place] += UInt8(rest % 10)
            rest /= 10
        }
        return digits
    }
}

extension Load {
    func run(against server: ServerUnderTest, group: any EventLoopGroup) async throws -> Measurement {
        var clientsOfAll: [Client] = []
        for _ in 0..<connections { clientsOfAll.append(try await Client.connect(host: server.host, port: server.port, on: group)) }
        var drivers: [NIOLoopBound<Driver>] = []
        for (index, client) in clientsOfAll.enumerated() {
            let share = clients / connections + (index < clients % connections ? 1 : 0)
            drivers.append(try await client.eventLoop.submit {
                NIOLoopBound(try Driver(client.connection.value, self, clients: share, seed: UInt64(index) &* 0x1234_5678_9abc), eventLoop: client.eventLoop)
            }.get())
        }
        func each(_ body: @escaping @Sendable (Driver) -> Void) async throws {
            for (client, driver) in zip(clientsOfAll, drivers) { try await client.eventLoop.submit { body(driver.value) }.get() }
        }
        try await each { $0.start() }
        try await Task.sleep(nanoseconds: UInt64(warmUpSeconds * 1e9))
        let cpuBefore = try server.cpuMicroseconds(), begin = monotonicNanoseconds()
        try await each { $0.measures = true }
        try await Task.sleep(nanoseconds: UInt64(seconds * 1e9))
        try await each { $0.measures = false }
        let elapsed = Double(monotonicNanoseconds() - begin) / 1e9, cpu = try server.cpuMicroseconds() - cpuBefore
        try await each { $0.stopped = true }
        while true {
            var open = 0
            for (client, driver) in zip(clientsOfAll, drivers) { open += try await client.eventLoop.submit { driver.value.open }.get() }
            if open == 0 { break }
            try await Task.sleep(nanoseconds: 5_000_000)
        }
        var latencies = Histogram(), answered = 0, failures = 0, last: Status?
        for (client, driver) in zip(clientsOfAll, drivers) {
            let part = try await client.eventLoop.submit { (driver.value.latencies, driver.value.answered, driver.value.failures, driver.value.lastFailure) }.get()
            latencies.merge(part.0)
            answered += part.1
            failures += part.2
            last = part.3 ?? last
        }
        for client in clientsOfAll { await client.close() }
        guard answered > 0, failures == 0 else { throw Failure("\(failures) of \(name)'s requests failed: \(last.map(String.init(describing:)) ?? "no answer")") }
        return Measurement(
            throughput: Double(answered) / elapsed, p50Microseconds: latencies.quantile(0.5), p99Microseconds: latencies.quantile(0.99),
            cpuPerRequestMicroseconds: cpu / Double(answered), residentMebibytes: try server.residentMebibytes(), failures: failures)
    }

    /// Writes each key once, so that ranges find what they ask for.
    func fill(_ server: ServerUnderTest, group: any EventLoopGroup) async throws {
        let client = try await Client.connect(host: server.host, port: server.port, on: group)
        try await withThrowingTaskGroup(of: Void.self) { tasks in
            for worker in 0..<64 {
                tasks.addTask {
                    for key in stride(from: worker, to: keys, by: 64) {
                        let text = String(key)
                        let request = PutRequestMessage(
                            key: Array(("bench/" + String(repeating: "0", count: 8 - text.count) + text).utf8),
                            value: ByteBuffer(repeating: 0x76, count: valueBytes))
                        let message = try MessageFraming.framed(capacity: 512, allocator: ByteBufferAllocator()) { buffer throws in try request.encode(into: &buffer) }
                        _ = try await client.unary(path: "/etcdserverpb.KV/Put", message: message, timeout: .seconds(30))
                    }
                }
            }
            try await tasks.waitForAll()
        }
        await client.close()
    }
}
