import EtcdClient
import EtcdProtocol
import NIOCore
import NIOPosix
import NIOSSL
import RPC

extension Duration {
    var timeAmount: TimeAmount {
        let (seconds, attoseconds) = components
        return .seconds(seconds) + .nanoseconds(attoseconds / 1_000_000_000)
    }
}

/// A connection that may be used, and what its server said of itself when it was made.
struct Connection: Sendable {
    let endpoint: Int
    let client: EtcdClient
    /// Whether "progress" that was asked for never runs ahead of events: etcd before 3.4.25 and 3.5.8 got that wrong (its issue 15220).
    let progressIsExact: Bool
}

/// The connections to all endpoints: made when they are needed, shared by all calls, dropped when they fail.
///
/// 1. `EndpointTable` says whose turn it is, and whether to wait for it.
/// 2. If there is no connection, one is made, once for all who wait for it.
/// 3. A new connection is greeted with a Status request: a process that is stopped, has no leader, still learns, or belongs to another
///    cluster than the first one that answered, does not get any request.
/// 4. A connection on which an answer was late is doubted: it is greeted again before its next request, so that a stopped process holds
///    up no second one.
actor Connections {
    private let endpoints: [Endpoint]
    private let configuration: CofferClient.Configuration
    private let tls: NIOSSLContext?
    private var table: EndpointTable
    private var live: [Int: Connection] = [:]
    private var doubted: Set<Int> = []
    private var opening: [Int: Task<Connection, any Error>] = [:]
    private var clusterID: UInt64?
    private var isClosed = false
    private let clock = ContinuousClock()
    private let start = ContinuousClock.now
    private var now: Duration { clock.now - start }

    init(_ endpoints: [Endpoint], _ configuration: CofferClient.Configuration, _ tls: NIOSSLContext?) {
        self.endpoints = endpoints
        self.configuration = configuration
        self.tls = tls
        table = EndpointTable(count: endpoints.count, backoff: Backoff(first: configuration.restMin, longest: configuration.restMax))
    }

    /// One that works, by `deadline`; `.unavailable` with the last reason otherwise. Nothing was sent for the caller's request then.
    func connection(by deadline: ContinuousClock.Instant, avoiding avoided: Int? = nil) async throws -> Connection {
        var lastReason = "no endpoint answers"
        while true {
            guard !isClosed else { throw CofferClientError(.cancelled, "the client is closed") }
            guard clock.now < deadline else { throw CofferClientError(.unavailable, lastReason) }
            let (endpoint, wait) = table.pick(at: now, avoiding: avoided) // (1)
            if wait > .zero {
                guard clock.now + wait < deadline else { throw CofferClientError(.unavailable, lastReason) }
                do { try await clock.sleep(for: wait) } catch { throw CofferClientError(.cancelled, "the task was cancelled") }
            }
            if let connection = live[endpoint] {
                if connection.client.isUsable, !doubted.contains(endpoint) { return connection }
                if connection.client.isUsable { // (4)
                    do {
                        try check(try await connection.client.timed(configuration.connectTimeout.timeAmount).status())
                        doubted.remove(endpoint)
                        return connection
                    } catch {
                        lastReason = "\(endpoints[endpoint]): \(error)"
                        failed(endpoint)
                        continue
                    }
                }
                live[endpoint] = nil
            }
            do { return try await open(endpoint) } catch { // (2)
                lastReason = "\(endpoints[endpoint]): \(error)"
                failed(endpoint)
            }
        }
    }

    /// What each endpoint's member says of itself, over a connection made for the question.
    func greetings() async -> [(endpoint: String, answer: Result<StatusResponseMessage, any Error>)] {
        let timeout = configuration.connectTimeout.timeAmount, tls = tls
        return await withTaskGroup(of: (Int, Result<StatusResponseMessage, any Error>).self) { group in
            for (number, place) in endpoints.enumerated() {
                group.addTask {
                    do {
                        let client = try await EtcdClient.connect(
                            host: place.host, port: place.port, tls: place.isTLS ? tls : nil, timeout: timeout, on: MultiThreadedEventLoopGroup.singleton)
                        let answer: Result<StatusResponseMessage, any Error>
                        do { answer = .success(try await client.timed(timeout).status()) } catch { answer = .failure(error) }
                        await client.close()
                        return (number, answer)
                    } catch { return (number, .failure(error)) }
                }
            }
            var answers: [(Int, Result<StatusResponseMessage, any Error>)] = []
            for await answer in group { answers.append(answer) }
            return answers.sorted { $0.0 < $1.0 }.map { (endpoints[$0.0].description, $0.1) }
        }
    }

    func failed(_ endpoint: Int, with status: Status? = nil) {
        if status?.code == .deadlineExceeded { doubted.insert(endpoint) }
        var generator = SystemRandomNumberGenerator()
        table.failed(endpoint, at: now, using: &generator)
        if let connection = live[endpoint], !connection.client.isUsable { live[endpoint] = nil }
    }
    func succeeded(_ endpoint: Int) { table.succeeded(endpoint) }

    func close() async {
        isClosed = true
        for task in opening.values { task.cancel() }
        let connections = live.values.map(\.client)
        live = [:]
        for client in connections { await client.close() }
    }

    private func open(_ endpoint: Int) async throws -> Connection {
        if let task = opening[endpoint] { return try await task.value }
        let place = endpoints[endpoint], tls = place.isTLS ? tls : nil, timeout = configuration.connectTimeout.timeAmount
        let task = Task {
            let client = try await EtcdClient.connect(host: place.host, port: place.port, tls: tls, timeout: timeout, on: MultiThreadedEventLoopGroup.singleton)
            do {
                let greeting = try await client.timed(timeout).status() // (3)
                try self.check(greeting)
                return Connection(endpoint: endpoint, client: client, progressIsExact: ServerVersion(greeting.version).hasExactProgress)
            } catch {
                await client.close()
                throw error
            }
        }
        opening[endpoint] = task
        defer { opening[endpoint] = nil }
        let connection = try await task.value
        guard !isClosed else {
            await connection.client.close()
            throw CofferClientError(.cancelled, "the client is closed")
        }
        live[endpoint] = connection
        doubted.remove(endpoint)
        return connection
    }

    private func check(_ greeting: StatusResponseMessage) throws {
        guard greeting.leader != 0 else { throw Status(.unavailable, "the member knows no leader", .unsent) }
        guard !greeting.isLearner else { throw Status(.unavailable, "the member is a learner", .unsent) }
        let cluster = greeting.header?.clusterID ?? 0
        if clusterID == nil { clusterID = cluster }
        guard clusterID == cluster else { throw Status(.unavailable, "the member belongs to another cluster", .unsent) }
    }
}

/// `major.minor.patch`.
struct ServerVersion {
    private let numbers: [Int]
    init(_ text: String) { numbers = text.split(separator: "-")[...].first?.split(separator: ".").map { Int($0) ?? 0 } ?? [] }
    var hasExactProgress: Bool {
        guard numbers.count >= 3 else { return false }
        let (major, minor, patch) = (numbers[0], numbers[1], numbers[2])
        guard major == 3 else { return major > 3 }
        return switch minor {
        case ..<4: false
        case 4: patch >= 25
        case 5: patch >= 8
        default: true
        }
    }
}
