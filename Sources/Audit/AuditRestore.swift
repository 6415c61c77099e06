import Basics
import Glibc

/// Where some bytes stand: in which file (its inode), and at what offset. In a note, before them: two u64.
struct AuditPlace: Equatable {
    static let bytes = 16
    var file: UInt64
    var offset: UInt64

    func before(_ part: ArraySlice<UInt8>) -> Bytes {
        var writer = ByteWriter(capacity: Self.bytes + part.count)
        writer.write(file)
        writer.write(offset)
        writer.write(raw: part)
        return writer.bytes
    }
    /// `nil`: none of our making.
    static func split(_ note: Bytes) -> (place: AuditPlace, part: ArraySlice<UInt8>)? {
        var reader = ByteReader(note)
        guard let file = try? reader.read(UInt64.self), let offset = try? reader.read(UInt64.self), offset < UInt64(Int64.max / 2) else { return nil }
        return (AuditPlace(file: file, offset: offset), note[Self.bytes...])
    }
}

// What a crash took from the file.
extension AuditLog {
    func fileNumber(_ descriptor: Int32) throws(AuditError) -> UInt64 {
        var status = stat()
        guard unsafe fstat(descriptor, &status) == 0 else { throw .failed("fstat", errno: errno) }
        return UInt64(status.st_ino)
    }

    /// Writes what notes hold and the file does not, where it belongs: behind the end, or over zeros. Whatever else stands in its place (the file
    /// was replaced, or cut short by someone) is left alone, and the bytes are appended: rather twice than not at all.
    func restore(_ notes: [AuditNote]) throws(AuditError) {
        guard !notes.isEmpty else { return }
        // One that appends writes at the end, whatever offset it is given.
        let file = unsafe open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW)
        guard file >= 0 else { throw .failed("open", errno: errno) }
        defer { Glibc.close(file) }
        let number = try fileNumber(file)
        var homeless: [UInt8] = []
        for note in notes {
            guard let (place, part) = AuditPlace.split(note.bytes) else { continue }
            let isThere = place.file == number ? try put(part, at: Int(place.offset), in: file) : false
            if !isThere { homeless.append(contentsOf: part) }
        }
        guard fdatasync(file) == 0 else { throw .failed("fdatasync", errno: errno) }
        try findEnd()
        if !homeless.isEmpty { try write(homeless) }
        guard fdatasync(descriptor) == 0 else { throw .failed("fdatasync", errno: errno) }
    }

    /// False: something else is there, or there is a gap before it.
    private func put(_ part: ArraySlice<UInt8>, at offset: Int, in file: Int32) throws(AuditError) -> Bool {
        let size = lseek(file, 0, SEEK_END)
        guard size >= 0 else { throw .failed("lseek", errno: errno) }
        guard offset <= size else { return false }
        var there = [UInt8](repeating: 0, count: min(part.count, size - offset))
        let read = unsafe there.withUnsafeMutableBytes { unsafe pread(file, $0.baseAddress, $0.count, offset) }
        guard read == there.count else { throw .failed("pread", errno: read < 0 ? errno : EIO) }
        if part.elementsEqual(there) { return true }
        guard zip(there, part).allSatisfy({ $0 == $1 || $0 == 0 }) else { return false }
        var written = 0
        while written < part.count {
            let count = unsafe part[(part.startIndex + written)...].withUnsafeBytes { unsafe pwrite(file, $0.baseAddress, $0.count, offset + written) }
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { throw .failed("write", errno: count == 0 ? ENOSPC : errno) }
            written += count
        }
        return true
    }
}
