import Basics

extension Bytes {
    /// `withUnsafeBytes`, with a typed error.
    func withRawBytes<R, E: Error>(_ body: (UnsafeRawBufferPointer) throws(E) -> R) throws(E) -> R {
        try unsafe withUnsafeBufferPointer { buffer throws(E) in try unsafe body(UnsafeRawBufferPointer(buffer)) }
    }
}
