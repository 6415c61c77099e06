import Basics
import EtcdClient
import EtcdProtocol
import RPC
import Synchronization

extension CofferClient {
    /// A lease: entries put with it vanish, in one revision, when it ends. Answers its id. The store may give it more seconds than asked for.
    public func grantLease(seconds: Int64) async throws(CofferClientError) -> Int64 { try await grant(seconds).id }

    /// Begins its time anew; answers the seconds it has. Throws `.notFound` when it ended.
    @discardableResult
    public func keepAlive(lease: Int64) async throws(CofferClientError) -> Int64 {
        let answer = try await perform(.recognised) { try await $0.keepLeaseAlive(lease) }
        guard answer.seconds > 0 else { throw CofferClientError(.notFound, "lease \(lease) has ended") }
        return answer.seconds
    }

    /// Ends it, and its entries with it. Throws `.notFound` when it had ended.
    public func revoke(lease: Int64) async throws(CofferClientError) {
        try await perform(.recognised, alreadyDone: { $0.code == .notFound ? () : nil }) { try await $0.revokeLease(lease) }
    }

    /// `nil` when there is no such lease.
    public func status(lease: Int64) async throws(CofferClientError) -> LeaseStatus? {
        let answer = try await perform(.harmless) { try await $0.leaseTimeToLive(lease, keys: true) }
        guard answer.seconds >= 0 else { return nil }
        return LeaseStatus(seconds: answer.seconds, grantedSeconds: answer.grantedSeconds, keys: answer.keys.map { Key($0) })
    }

    /// The ids of all leases.
    public func leases() async throws(CofferClientError) -> [Int64] { try await perform(.harmless) { try await $0.leases() }.leases.map(\.id) }

    /// A lease that is kept alive until it is released, the client is closed, or nobody holds the object any more.
    public func keptLease(seconds: Int64) async throws(CofferClientError) -> KeptLease {
        let begun = clock.now
        let (id, seconds) = try await grant(seconds)
        return KeptLease(id: id, seconds: seconds, begun: begun, client: self)
    }

    /// Under an id that we choose, so that a lost answer is no lost lease: asked again, the store says that it exists.
    private func grant(_ seconds: Int64) async throws(CofferClientError) -> (id: Int64, seconds: Int64) {
        let id = Int64.random(in: 1...Int64.max)
        let mine = LeaseResponseMessage(header: nil, id: id, seconds: seconds)
        let answer = try await perform(
            .recognised, alreadyDone: { $0.code == .failedPrecondition && $0.message.hasSuffix("lease already exists") ? mine : nil }
        ) { try await $0.grantLease(seconds: seconds, id: id) }
        return (answer.id, answer.seconds)
    }
}

/// A lease that a task of this object renews three times in its span, at whatever member answers.
///
/// By the client's monotonic clock it holds at least until `seconds` after the last renewal that succeeded was *sent*: the store counts
/// from when it received it. After that moment, if no renewal succeeds, it must be taken for lost.
public final class KeptLease: Sendable {
    public enum Ending: Sendable, Hashable {
        /// The store said that it is gone.
        case expired
        /// No member could be reached for its whole span: it may have ended.
        case unreachable
        /// `release` was called, or the client closed.
        case released
    }
    public let id: Int64
    /// Its span.
    public let seconds: Int64
    private let state: State
    private let renewal: Task<Void, Never>
    private let client: CofferClient

    private final class State: Sendable {
        struct Content {
            var heldUntil: ContinuousClock.Instant
            var ending: Ending?
            var waiting: [CheckedContinuation<Ending, Never>] = []
        }
        let content: Mutex<Content>
        init(_ heldUntil: ContinuousClock.Instant) { content = Mutex(Content(heldUntil: heldUntil)) }
        func end(_ ending: Ending) {
            let waiting = content.withLock { content -> [CheckedContinuation<Ending, Never>] in
                guard content.ending == nil else { return [] }
                content.ending = ending
                defer { content.waiting = [] }
                return content.waiting
            }
            for continuation in waiting { continuation.resume(returning: ending) }
        }
    }

    init(id: Int64, seconds: Int64, begun: ContinuousClock.Instant, client: CofferClient) {
        self.id = id
        self.seconds = seconds
        self.client = client
        let span = Duration.seconds(seconds), state = State(begun + span)
        self.state = state
        renewal = Task { await Self.renew(id, span, state, client) }
    }
    deinit {
        renewal.cancel()
        state.end(.released)
    }

    /// Whether the entries put with it are surely still there.
    public var isHeld: Bool { state.content.withLock { $0.ending == nil && ContinuousClock.now < $0.heldUntil } }
    /// Later with each renewal.
    var heldUntil: ContinuousClock.Instant { state.content.withLock { $0.heldUntil } }

    /// Waits until it is no longer kept, and says why.
    public func ended() async -> Ending {
        await withCheckedContinuation { continuation in
            let ending = state.content.withLock { content -> Ending? in
                if content.ending == nil { content.waiting.append(continuation) }
                return content.ending
            }
            if let ending { continuation.resume(returning: ending) }
        }
    }

    /// Ends the lease, and its entries with it.
    public func release() async throws(CofferClientError) {
        renewal.cancel()
        state.end(.released)
        do throws(CofferClientError) { try await client.revoke(lease: id) } catch { guard error.code == .notFound else { throw error } }
    }

    private static func renew(_ id: Int64, _ span: Duration, _ state: State, _ client: CofferClient) async {
        while !Task.isCancelled {
            do { try await client.clock.sleep(for: span / 3) } catch { return }
            let heldUntil = state.content.withLock { $0.heldUntil }
            do throws(CofferClientError) {
                // Its own attempts, so that "sent" is the moment before the one that was answered.
                let (sent, seconds) = try await client.renewal(of: id, by: heldUntil)
                guard seconds > 0 else { return state.end(.expired) }
                state.content.withLock { $0.heldUntil = sent + .seconds(seconds) }
            } catch {
                return state.end(error.code == .cancelled ? .released : .unreachable)
            }
        }
    }
}

extension CofferClient {
    /// When the answered attempt was sent, and the seconds it gave; 0: the lease is gone.
    func renewal(of id: Int64, by deadline: ContinuousClock.Instant) async throws(CofferClientError) -> (ContinuousClock.Instant, Int64) {
        let clock = clock
        return try await perform(.recognised, by: deadline) { client in
            let sent = clock.now
            return (sent, try await client.keepLeaseAlive(id).seconds)
        }
    }
}
