import CLinux
import Glibc

/// State behind a lock, with waiting for it to change (Hoare's monitor).
///
/// Waiting is on a word of its own and not on a condition variable: whoever wakes from one takes the mutex as if others waited for it, and
/// pays for waking nobody when it lets go.
///
/// Who must not sleep polls instead, and is notified of the change after that.
///
/// Invariant: `waiters` sleep, or are about to, until the word differs from what it is now; or have polled in vain.
@safe package final class Monitor<State>: @unchecked Sendable {
    private let mutex: UnsafeMutablePointer<pthread_mutex_t>
    private let word: UnsafeMutablePointer<UInt32>
    private var state: State
    private var waiters = 0
    private var notify: (@Sendable () -> Void)?

    package init(_ state: State) {
        self.state = state
        unsafe mutex = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)
        unsafe word = UnsafeMutablePointer<UInt32>.allocate(capacity: 1)
        unsafe word.initialize(to: 0)
        let status = unsafe pthread_mutex_init(mutex, nil)
        precondition(status == 0)
    }
    deinit {
        unsafe pthread_mutex_destroy(mutex)
        unsafe word.deallocate()
        unsafe mutex.deallocate()
    }

    /// Looks at the state, or changes what nobody waits for.
    package func withLock<R, E: Error>(_ body: (inout State) throws(E) -> R) throws(E) -> R {
        unsafe pthread_mutex_lock(mutex)
        defer { unsafe pthread_mutex_unlock(mutex) }
        return try body(&state)
    }
    /// Changes the state and wakes who waits; with `waking`, if that holds afterwards.
    package func change<R>(waking: ((borrowing State) -> Bool)? = nil, _ body: (inout State) -> R) -> R {
        unsafe pthread_mutex_lock(mutex)
        let result = body(&state)
        let wakes = waiters > 0 && (waking?(state) ?? true), notify = wakes ? self.notify : nil
        if wakes {
            waiters = 0
            unsafe word.pointee &+= 1
        }
        unsafe pthread_mutex_unlock(mutex)
        if let notify { notify() } else if wakes { unsafe clinux_futex_wake(word) }
        return result
    }
    /// Waits until `body` answers; asks again after every change.
    package func wait<R>(_ body: (inout State) -> R?) -> R {
        unsafe pthread_mutex_lock(mutex)
        defer { unsafe pthread_mutex_unlock(mutex) }
        while true {
            if let result = body(&state) { return result }
            sleep(until: .max)
        }
    }
    /// The same, but not beyond `deadline` (monotonic nanoseconds); then `nil`.
    package func wait<R>(until deadline: UInt64, _ body: (inout State) -> R?) -> R? {
        unsafe pthread_mutex_lock(mutex)
        defer { unsafe pthread_mutex_unlock(mutex) }
        while true {
            if let result = body(&state) { return result }
            if sleep(until: deadline) == -ETIMEDOUT { return body(&state) }
        }
    }
    /// From now on nobody waits, but polls; `notify` is called by whoever makes the first change after a poll in vain.
    package func notifies(_ notify: @escaping @Sendable () -> Void) { withLock { _ in self.notify = notify } }
    /// Does not wait for an answer.
    package func poll<R>(_ body: (inout State) -> R?) -> R? {
        withLock { state in
            let result = body(&state)
            if result == nil { waiters = 1 }
            return result
        }
    }
    /// Without the mutex, which is held before and after.
    @discardableResult
    private func sleep(until deadline: UInt64) -> Int32 {
        waiters += 1
        let seen = unsafe word.pointee
        unsafe pthread_mutex_unlock(mutex)
        let status = unsafe clinux_futex_wait(word, seen, deadline)
        unsafe pthread_mutex_lock(mutex)
        // Nobody has woken it, so it is counted still.
        if unsafe word.pointee == seen { waiters -= 1 }
        return status
    }
}

/// Of the monotonic clock.
package func monotonicNanoseconds() -> UInt64 {
    var time = timespec()
    unsafe clock_gettime(CLOCK_MONOTONIC, &time)
    return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
}

/// A thread of its own for blocking work: never on an event loop or the cooperative pool.
@safe package final class LaneThread: @unchecked Sendable {
    private final class Start {
        let body: () -> Void
        init(_ body: @escaping () -> Void) { self.body = body }
    }
    private let thread: pthread_t
    private let joined = Monitor(false)

    /// How much a background thread yields to those that answer requests.
    private static let backgroundNiceness: Int32 = 10

    /// `background`: work that nobody waits for, which gives way to other threads when processors are short.
    package init(background: Bool = false, _ body: @escaping @Sendable () -> Void) throws(StorageFailure) {
        let start = unsafe Unmanaged.passRetained(Start {
            // Of this thread alone, on Linux; when it is refused, the work is done all the same.
            if background { _ = setpriority(__priority_which_t(PRIO_PROCESS.rawValue), 0, Self.backgroundNiceness) }
            body()
        })
        var thread = pthread_t()
        let status = unsafe pthread_create(&thread, nil, { argument in
            guard let argument = unsafe argument else { return nil }
            let start = unsafe Unmanaged<Start>.fromOpaque(argument).takeRetainedValue()
            start.body()
            return nil
        }, start.toOpaque())
        guard status == 0 else {
            unsafe start.release()
            throw .io(operation: "pthread_create", code: status)
        }
        self.thread = thread
    }
    /// Waits for the end. From the thread itself it only lets go.
    package func join() {
        let first = joined.change { joined in
            defer { joined = true }
            return !joined
        }
        guard first else { return }
        if pthread_equal(thread, pthread_self()) != 0 { pthread_detach(thread) } else { pthread_join(thread, nil) }
    }
}
