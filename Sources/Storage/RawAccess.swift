import Basics

// `withUnsafeBytes`, with a typed error.
extension Bytes {
    func withRawBytes<R, E: Error>(_ body: (UnsafeRawBufferPointer) throws(E) -> R) throws(E) -> R {
        try unsafe withUnsafeBufferPointer { buffer throws(E) in try unsafe body(UnsafeRawBufferPointer(buffer)) }
    }
}
extension ArraySlice<UInt8> {
    func withRawBytes<R, E: Error>(_ body: (UnsafeRawBufferPointer) throws(E) -> R) throws(E) -> R {
        try unsafe withUnsafeBufferPointer { buffer throws(E) in try unsafe body(UnsafeRawBufferPointer(buffer)) }
    }
}
