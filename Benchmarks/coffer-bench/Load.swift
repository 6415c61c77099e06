import EtcdProtocol
import NIOCore
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
    /// Of the case's name: "3x-" where three members are asked.
    var prefix = ""

    var name: String {
        let what = kind == .range && !prefix.isEmpty ? "range-linearizable" : "\(kind.rawValue)-\(valueBytes)B"
        return "\(prefix)\(what)-\(connections)/\(clients)"
    }
}

struct Measurement: Sendable {
    var throughput: Double
    var p50Microseconds: Double
    var p99Microseconds: Double
    var cpuPerRequestMicroseconds: Double
    var residentMebibytes: Double
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

/// One server, or the members of a cluster: connections go to them in turn, and what they cost is summed.
struct ServiceUnderTest: Sendable {
    var members: [ServerUnderTest]

    init?(_ text: String) {
        let members = text.split(separator: ",").map { ServerUnderTest(String($0)) }
        self.members = members.compactMap { $0 }
        guard !members.isEmpty, self.members.count == members.count else { return nil }
    }
    func cpuMicroseconds() throws -> Double { try members.reduce(0) { $0 + (try $1.cpuMicroseconds()) } }
    func residentMebibytes() throws -> Double { try members.reduce(0) { $0 + (try $1.residentMebibytes()) } }
}

/// Eight decimal digits at random (SplitMix64).
struct SeededDigits {
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
    func run(against service: ServiceUnderTest, group: any EventLoopGroup) async throws -> Measurement {
        var channels: [(channel: any Channel, driver: NIOLoopBound<LeanClient>)] = []
        for index in 0..<connections {
            let share = clients / connections + (index < clients % connections ? 1 : 0)
            let member = service.members[index % service.members.count]
            channels.append(try await LeanClient.connect(self, to: member, clients: share, seed: UInt64(index) &* 0x1234_5678_9abc, group: group))
        }
        func each(_ body: @escaping @Sendable (LeanClient) -> Void) async throws {
            for (channel, driver) in channels { try await channel.eventLoop.submit { body(driver.value) }.get() }
        }
        try await each { $0.start() }
        try await Task.sleep(nanoseconds: UInt64(warmUpSeconds * 1e9))
        let cpuBefore = try service.cpuMicroseconds(), begin = monotonicNanoseconds()
        try await each { $0.measures = true }
        try await Task.sleep(nanoseconds: UInt64(seconds * 1e9))
        try await each { $0.measures = false }
        let elapsed = Double(monotonicNanoseconds() - begin) / 1e9, cpu = try service.cpuMicroseconds() - cpuBefore
        try await each { $0.stopped = true }
        var latencies = Histogram(), answered = 0, failure: String?
        for (channel, driver) in channels {
            while try await channel.eventLoop.submit({ driver.value.open > 0 && driver.value.failure == nil }).get() { try await Task.sleep(nanoseconds: 2_000_000) }
            let part = try await channel.eventLoop.submit { (driver.value.latencies, driver.value.answered, driver.value.failure) }.get()
            latencies.merge(part.0)
            answered += part.1
            failure = failure ?? part.2
            try? await channel.close()
        }
        if let failure { throw Failure("\(name): \(failure)") }
        guard answered > 0 else { throw Failure("\(name): no answer") }
        return Measurement(
            throughput: Double(answered) / elapsed, p50Microseconds: latencies.quantile(0.5), p99Microseconds: latencies.quantile(0.99),
            cpuPerRequestMicroseconds: cpu / Double(answered), residentMebibytes: try service.residentMebibytes())
    }

    /// Writes each key once, so that ranges find what they ask for.
    func fill(_ service: ServiceUnderTest, group: any EventLoopGroup) async throws {
        var clients: [Client] = []
        for server in service.members { clients.append(try await Client.connect(host: server.host, port: server.port, on: group)) }
        let workers = 64 * clients.count
        try await withThrowingTaskGroup(of: Void.self) { tasks in
            for worker in 0..<workers {
                let client = clients[worker % clients.count]
                tasks.addTask {
                    for key in stride(from: worker, to: keys, by: workers) {
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
        for client in clients { await client.close() }
    }
}
