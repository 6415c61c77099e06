import Dispatch
import Foundation
import Glibc
import Logging
import Synchronization

/// Standard error, written by a thread of its own: nobody who logs waits for whoever reads the log. What has no room while nobody reads is
/// counted, and the count is told when there is room again.
final class LogWriter: Sendable {
    /// A line has a hundred bytes or so.
    private static let linesMax = 10_000
    private struct State {
        var lines: [String] = []
        var dropped = 0
        var isWriting = false
    }
    private let state = Mutex(State())
    private let work = DispatchSemaphore(value: 0)

    init() {
        let thread = Thread { [self] in
            while true { write() }
        }
        thread.name = "log"
        thread.start()
    }

    func add(_ line: String) {
        state.withLock { state in
            if state.lines.count < Self.linesMax { state.lines.append(line) } else { state.dropped += 1 }
        }
        work.signal()
    }

    private func write() {
        work.wait()
        let lines = state.withLock { state -> [String] in
            var lines = state.lines
            if state.dropped > 0 { lines.append("cofferd: \(state.dropped) lines had no room here while nobody read them\n") }
            state = State(isWriting: !lines.isEmpty)
            return lines
        }
        for line in lines {
            var rest = Array(line.utf8)[...]
            while !rest.isEmpty {
                let count = rest.withUnsafeBytes { Glibc.write(STDERR_FILENO, $0.baseAddress, $0.count) }
                if count > 0 { rest = rest.dropFirst(count) } else if errno != EINTR { break }
            }
        }
        state.withLock { $0.isWriting = false }
    }

    /// Before the end of the process: waits until all is written, if somebody reads it.
    func drain() {
        let deadline = DispatchTime.now() + .seconds(1)
        while state.withLock({ !$0.lines.isEmpty || $0.isWriting }), DispatchTime.now() < deadline { usleep(1_000) }
    }
}

/// One line an event, as swift-log's own handler for streams writes them.
struct LineLogHandler: LogHandler {
    let label: String
    let writer: LogWriter
    var logLevel = Logger.Level.notice
    var metadata: Logger.Metadata = [:]
    init(label: String, level: Logger.Level, writer: LogWriter) { (self.label, logLevel, self.writer) = (label, level, writer) }

    subscript(metadataKey key: String) -> Logger.Metadata.Value? {
        get { metadata[key] }
        set { metadata[key] = newValue }
    }

    func log(event: LogEvent) {
        var given = metadata.merging(event.metadata ?? [:]) { $1 }
        if let error = event.error { given["error"] = "\(error)" }
        let all = given.sorted { $0.key < $1.key }.map { "\($0.key)=\($0.value)" }
        var now = time(nil), parts = tm(), text = [CChar](repeating: 0, count: 40)
        localtime_r(&now, &parts)
        let count = strftime(&text, text.count, "%Y-%m-%dT%H:%M:%S%z", &parts)
        let stamp = String(decoding: text[..<count].map { UInt8(bitPattern: $0) }, as: UTF8.self)
        writer.add("\(stamp) \(event.level) \(label): \(all.joined(separator: " ")) [\(event.source)] \(event.message)\n")
    }
}
