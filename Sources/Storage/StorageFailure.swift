package import Basics
package import WriteAheadLog

/// Why storage could not do what was asked. After `.io` of a write or a sync a lane is stopped for good: what the disk holds
/// is not known any more, and asking again would be answered with a false success.
package enum StorageFailure: Error, Hashable, Sendable, CustomStringConvertible {
    /// No space left. The log says so while its reserve is still untouched (`DiskLane.reserve`).
    case full(operation: String)
    /// The operating system refused; `code` is its errno.
    case io(operation: String, code: Int32)
    /// LMDB refused; `code` is its own.
    case database(operation: String, code: Int32)
    /// Closed before.
    case closed
    /// Another process, or this one, has the directory open.
    case inUse
    case entryTooLarge
    case damagedLog(LogDamage)
    case damagedRecord(Revision)
    case damagedTable
    /// The file of records is shorter than it says.
    case truncatedRecords
    /// A page of the file of records is not what those that lead to it say.
    case damagedPage(UInt64)
    /// The records' own description of format and owner is unreadable.
    case damagedRecordHeader
    case wrongKeyring, wrongMember, wrongFileKey
    case newerFormat(UInt16)
    /// A record was to be copied from one that is not there.
    case missingRecord(Revision)

    package var description: String {
        switch self {
        case .full(let operation): "no space left: \(operation)"
        case .io(let operation, let code): "\(operation) failed with error \(code)"
        case .database(let operation, let code): "record database: \(operation) failed with code \(code)"
        case .closed: "storage is closed"
        case .inUse: "the data directory is in use"
        case .entryTooLarge: "the entry is larger than a frame of the log"
        case .damagedLog(let damage): damage.description
        case .damagedRecord(let revision): "damaged record at revision \(revision.main).\(revision.sub)"
        case .damagedTable: "damaged row of a table"
        case .truncatedRecords: "the file of records is cut short"
        case .damagedPage(let page): "page \(page) of the file of records is damaged"
        case .damagedRecordHeader: "the description of the record database is damaged"
        case .wrongKeyring: "the data directory belongs to another keyring"
        case .wrongMember: "the data directory belongs to another member"
        case .wrongFileKey: "the file key does not open this data directory"
        case .newerFormat(let version): "the data directory has format \(version), newer than this program knows"
        case .missingRecord(let revision): "no record at revision \(revision.main).\(revision.sub)"
        }
    }
    package var isFull: Bool {
        if case .full = self { return true }
        return false
    }
}
