import Glibc

struct Failure: Error, CustomStringConvertible {
    let description: String
    init(_ description: String) { self.description = description }
}

func monotonicNanoseconds() -> UInt64 {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
}
func ticksPerSecond() -> Double { Double(sysconf(Int32(_SC_CLK_TCK))) }

func readText(_ path: String) throws -> String {
    let descriptor = open(path, O_RDONLY)
    guard descriptor >= 0 else { throw Failure("\(path) cannot be read") }
    defer { close(descriptor) }
    var bytes = [UInt8](), chunk = [UInt8](repeating: 0, count: 4096)
    while true {
        let count = read(descriptor, &chunk, chunk.count)
        guard count > 0 else { break }
        bytes.append(contentsOf: chunk[..<count])
    }
    return String(decoding: bytes, as: UTF8.self)
}

func appendLine(_ line: String, to path: String) throws {
    let descriptor = open(path, O_WRONLY | O_APPEND | O_CREAT, 0o644)
    guard descriptor >= 0 else { throw Failure("\(path) cannot be written") }
    defer { close(descriptor) }
    let bytes = Array((line + "\n").utf8)
    guard write(descriptor, bytes, bytes.count) == bytes.count else { throw Failure("\(path) cannot be written") }
}

func writeFile(_ bytes: [UInt8], to path: String) throws {
    let descriptor = open(path, O_WRONLY | O_TRUNC | O_CREAT, 0o644)
    guard descriptor >= 0 else { throw Failure("\(path) cannot be written") }
    defer { close(descriptor) }
    guard write(descriptor, bytes, bytes.count) == bytes.count else { throw Failure("\(path) cannot be written") }
}

/// With so many digits after the point.
func fixed(_ value: Double, _ digits: Int) -> String {
    var scale = 1.0
    for _ in 0..<digits { scale *= 10 }
    let scaled = Int64((value.magnitude * scale).rounded())
    let whole = scaled / Int64(scale), part = String(scaled % Int64(scale))
    let sign = value < 0 ? "-" : ""
    return digits == 0 ? "\(sign)\(whole)" : "\(sign)\(whole)." + String(repeating: "0", count: digits - part.count) + part
}
func padded(_ text: String, _ width: Int) -> String {
    text.count >= width ? text : String(repeating: " ", count: width - text.count) + text
}
/// A line of output, at once.
func say(_ words: String...) {
    let line = words.joined(separator: " ") + "\n"
    _ = write(1, line, line.utf8.count)
}
func printError(_ text: String) { _ = write(2, text + "\n", text.utf8.count + 1) }
func exitProcess(_ code: Int32) -> Never { exit(code) }
