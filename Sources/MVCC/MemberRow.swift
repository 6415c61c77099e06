package import Basics

/// Rows of the table `members`; the first byte of a key says which sort of row it is:
///
///     "m" | u64 id              1 | is a learner: bool | name | peer URLs | client URLs
///     "r" | u64 id              1                                                     a former member
///     "a" | u64 id | u8 kind    1                                                     an alarm
///     "f" | u64 id              1 | u64 incarnation | u64 sequence                    the last forwarded command admitted
///     "c"                       1 | membership as consensus has it (Replica's form)
extension TableRow {
    enum Member { case member(ClusterMember), removed(MemberID), alarm(Alarm), forwarded(Origin), consensus(Bytes) }

    private static func row(_ sort: Character, _ id: MemberID, _ kind: UInt8? = nil, _ fill: ((inout ByteWriter) -> Void)?) -> TableWrite {
        var key = ByteWriter(capacity: 10), value = ByteWriter(capacity: 128)
        key.write(sort.asciiValue ?? 0)
        key.write(id.rawValue)
        if let kind { key.write(kind) }
        value.write(format)
        fill?(&value)
        return TableWrite(.members, key.bytes, fill == nil ? nil : value.bytes)
    }

    static func write(_ member: ClusterMember) -> TableWrite { row("m", member.id) { $0.write(details: member) } }
    /// The member goes, and its id stays known.
    static func writeRemoved(_ id: MemberID) -> [TableWrite] { [row("m", id, nil, nil), row("r", id) { _ in }] }
    static func write(_ alarm: Alarm, isRaised: Bool) -> TableWrite { row("a", alarm.member, alarm.kind.rawValue, isRaised ? { _ in } : nil) }
    static func write(_ origin: Origin) -> TableWrite {
        row("f", origin.member) {
            $0.write(origin.incarnation)
            $0.write(origin.sequence)
        }
    }
    static func removeForwarded(_ id: MemberID) -> TableWrite { row("f", id, nil, nil) }
    static func write(consensus: Bytes) -> TableWrite { TableWrite(.members, [Character("c").asciiValue ?? 0], [format] + consensus) }

    static func member(_ key: Bytes, _ value: Bytes) throws(MalformedBytes) -> Member {
        var key = ByteReader(key), reader = ByteReader(value)
        let sort: UInt8 = try key.read(), version: UInt8 = try reader.read()
        guard version == format else { throw MalformedBytes("row of format \(version)", at: 0) }
        let row: Member
        switch Character(Unicode.Scalar(sort)) {
        case "m":
            let id = MemberID(try key.read())
            row = .member(try reader.readMemberDetails(of: id))
        case "r": row = .removed(MemberID(try key.read()))
        case "a":
            let id = MemberID(try key.read()), raw: UInt8 = try key.read()
            guard let kind = Alarm.Kind(rawValue: raw) else { throw MalformedBytes("\(raw) is no alarm", at: 9) }
            row = .alarm(Alarm(kind, of: id))
        case "f":
            let id = MemberID(try key.read())
            row = .forwarded(Origin(id, incarnation: try reader.read(), sequence: try reader.read()))
        case "c": row = .consensus(Bytes(try reader.readRaw(reader.remaining)))
        default: throw MalformedBytes("\(sort) is no row of the table of members", at: 0)
        }
        try key.expectEnd()
        try reader.expectEnd()
        return row
    }
}

// MARK: - Commands

extension ByteWriter {
    fileprivate mutating func write(texts: [String]) {
        write(UInt32(texts.count))
        for text in texts { write(prefixed: text.utf8) }
    }
    mutating func write(details member: ClusterMember) {
        write(bool: member.isLearner)
        write(prefixed: member.name.utf8)
        write(texts: member.peerURLs)
        write(texts: member.clientURLs)
    }
    private mutating func write(_ member: ClusterMember) {
        write(member.id.rawValue)
        write(details: member)
    }
    mutating func write(_ command: MemberCommand) {
        switch command {
        case .found(let members):
            write(0 as UInt8)
            write(UInt32(members.count))
            for member in members { write(member) }
        case .change(let steps):
            write(1 as UInt8)
            write(UInt32(steps.count))
            for step in steps { write(step) }
        case .update(let id, let peerURLs):
            write(2 as UInt8)
            write(id.rawValue)
            write(texts: peerURLs)
        case .publish(let id, let name, let clientURLs):
            write(3 as UInt8)
            write(id.rawValue)
            write(prefixed: name.utf8)
            write(texts: clientURLs)
        case .reduce(let id):
            write(4 as UInt8)
            write(id.rawValue)
        }
    }
    private mutating func write(_ step: MemberStep) {
        switch step {
        case .add(let member):
            write(0 as UInt8)
            write(member)
        case .promote(let id):
            write(1 as UInt8)
            write(id.rawValue)
        case .demote(let id):
            write(2 as UInt8)
            write(id.rawValue)
        case .remove(let id):
            write(3 as UInt8)
            write(id.rawValue)
        }
    }
}

extension ByteReader {
    /// A list of at most `Limits.membersMax` elements.
    fileprivate mutating func readFew<T>(_ element: (inout ByteReader) throws(MalformedBytes) -> T) throws(MalformedBytes) -> [T] {
        let count: UInt32 = try read()
        guard count <= Limits.membersMax else { throw MalformedBytes("a list of \(count) members or URLs", at: offset - 4) }
        var list: [T] = []
        for _ in 0..<count { list.append(try element(&self)) }
        return list
    }
    fileprivate mutating func readText() throws(MalformedBytes) -> String {
        let at = offset, bytes = try readPrefixed()
        guard bytes.count <= Limits.memberTextBytesMax, let text = String(validating: bytes, as: UTF8.self) else {
            throw MalformedBytes("no name or URL", at: at)
        }
        return text
    }
    private mutating func readTexts() throws(MalformedBytes) -> [String] { try readFew { reader throws(MalformedBytes) in try reader.readText() } }

    mutating func readMemberDetails(of id: MemberID) throws(MalformedBytes) -> ClusterMember {
        let isLearner = try readBool(), name = try readText(), peerURLs = try readTexts()
        return ClusterMember(id: id, name: name, peerURLs: peerURLs, clientURLs: try readTexts(), isLearner: isLearner)
    }
    private mutating func readMember() throws(MalformedBytes) -> ClusterMember {
        let id = MemberID(try read())
        return try readMemberDetails(of: id)
    }
    private mutating func readStep() throws(MalformedBytes) -> MemberStep {
        switch try read(UInt8.self) {
        case 0: return .add(try readMember())
        case 1: return .promote(MemberID(try read()))
        case 2: return .demote(MemberID(try read()))
        case 3: return .remove(MemberID(try read()))
        case let other: throw MalformedBytes("\(other) is no step of a change of members", at: offset - 1)
        }
    }
    mutating func readMemberCommand() throws(MalformedBytes) -> MemberCommand {
        switch try read(UInt8.self) {
        case 0: return .found(try readFew { reader throws(MalformedBytes) in try reader.readMember() })
        case 1: return .change(try readFew { reader throws(MalformedBytes) in try reader.readStep() })
        case 2:
            let id = MemberID(try read())
            return .update(id, peerURLs: try readTexts())
        case 3:
            let id = MemberID(try read()), name = try readText()
            return .publish(id, name: name, clientURLs: try readTexts())
        case 4: return .reduce(to: MemberID(try read()))
        case let other: throw MalformedBytes("\(other) is no member command", at: offset - 1)
        }
    }
}

/// A forwarded command in the log: `2 | member u64 | incarnation u64 | sequence u64`, then the command in its own form.
extension Origin {
    private static let format: UInt8 = 2
    package static let encodedBytes = 25

    package func encode(_ command: Bytes) -> Bytes {
        var writer = ByteWriter(capacity: Self.encodedBytes + command.count)
        writer.write(Self.format)
        writer.write(member.rawValue)
        writer.write(incarnation)
        writer.write(sequence)
        writer.write(raw: command)
        return writer.bytes
    }
    /// The command in a logged payload, whether or not one names an origin before it. Nothing is checked.
    static func command(in payload: Bytes) -> ArraySlice<UInt8> { payload.first == format ? payload.dropFirst(encodedBytes) : payload[...] }
    /// The origin a logged payload names, if it does, and where the command begins.
    package static func split(_ payload: Bytes) throws(MalformedBytes) -> (origin: Origin?, command: ArraySlice<UInt8>) {
        guard payload.first == format else { return (nil, payload[...]) }
        var reader = ByteReader(payload)
        _ = try reader.read(UInt8.self)
        let member = MemberID(try reader.read())
        let origin = Origin(member, incarnation: try reader.read(), sequence: try reader.read())
        return (origin, payload[encodedBytes...])
    }
}
