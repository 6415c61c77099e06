package import Basics
package import NIOCore

package struct CompareMessage: WireMessage {
    package enum Relation: Int, Sendable { case equal, greater, less, notEqual }
    package enum Target: Int, Sendable { case version, create, mod, value, lease }
    package var result: Relation? = .equal
    package var target: Target? = .version
    package var key: Bytes = []
    package var rangeEnd: Bytes = []
    package var version: Int64 = 0
    package var createRevision: Int64 = 0
    package var modRevision: Int64 = 0
    package var value = ByteBuffer()
    package var lease: Int64 = 0
    package init() {}
    package mutating func read(_ field: Int, from reader: inout WireReader) throws(WireError) -> Bool {
        switch field {
        case 1: result = try reader.enumeration(Relation.self)
        case 2: target = try reader.enumeration(Target.self)
        case 3: key = try reader.copiedBytes()
        case 4: version = try reader.int64()
        case 5: createRevision = try reader.int64()
        case 6: modRevision = try reader.int64()
        case 7: value = try reader.slice()
        case 8: lease = try reader.int64()
        case 64: rangeEnd = try reader.copiedBytes()
        default: return false
        }
        return true
    }
    package func write<S: WireSink>(to sink: inout S) {
        sink.int64(1, Int64(result?.rawValue ?? 0)); sink.int64(2, Int64(target?.rawValue ?? 0))
        sink.bytes(3, key)
        sink.int64(4, version); sink.int64(5, createRevision); sink.int64(6, modRevision)
        sink.bytes(7, value); sink.int64(8, lease); sink.bytes(64, rangeEnd)
    }
}

package struct RequestOperationMessage: WireMessage {
    package indirect enum Request: Sendable {
        case range(RangeRequestMessage)
        case put(PutRequestMessage)
        case deleteRange(DeleteRangeRequestMessage)
        case transaction(TransactionRequestMessage)
    }
    package var request: Request?
    package init() {}
    package init(_ request: Request) { self.request = request }
    package mutating func read(_ field: Int, from reader: inout WireReader) throws(WireError) -> Bool {
        switch field {
        case 1: request = .range(try reader.message())
        case 2: request = .put(try reader.message())
        case 3: request = .deleteRange(try reader.message())
        case 4: request = .transaction(try reader.message())
        default: return false
        }
        return true
    }
    package func write<S: WireSink>(to sink: inout S) {
        switch request {
        case .range(let message): sink.message(1, message)
        case .put(let message): sink.message(2, message)
        case .deleteRange(let message): sink.message(3, message)
        case .transaction(let message): sink.message(4, message)
        case nil: break
        }
    }
}

package struct TransactionRequestMessage: WireMessage {
    package var compare: [CompareMessage] = []
    package var success: [RequestOperationMessage] = []
    package var failure: [RequestOperationMessage] = []
    package init() {}
    package mutating func read(_ field: Int, from reader: inout WireReader) throws(WireError) -> Bool {
        switch field {
        case 1: compare.append(try reader.message())
        case 2: success.append(try reader.message())
        case 3: failure.append(try reader.message())
        default: return false
        }
        return true
    }
    package func write<S: WireSink>(to sink: inout S) {
        sink.messages(1, compare); sink.messages(2, success); sink.messages(3, failure)
    }
}

package struct ResponseOperationMessage: WireMessage {
    package indirect enum Response: Sendable {
        case range(RangeResponseMessage)
        case put(PutResponseMessage)
        case deleteRange(DeleteRangeResponseMessage)
        case transaction(TransactionResponseMessage)
    }
    package var response: Response?
    package init() {}
    package init(_ response: Response) { self.response = response }
    package mutating func read(_ field: Int, from reader: inout WireReader) throws(WireError) -> Bool {
        switch field {
        case 1: response = .range(try reader.message())
        case 2: response = .put(try reader.message())
        case 3: response = .deleteRange(try reader.message())
        case 4: response = .transaction(try reader.message())
        default: return false
        }
        return true
    }
    package func write<S: WireSink>(to sink: inout S) {
        switch response {
        case .range(let message): sink.message(1, message)
        case .put(let message): sink.message(2, message)
        case .deleteRange(let message): sink.message(3, message)
        case .transaction(let message): sink.message(4, message)
        case nil: break
        }
    }
}

package struct TransactionResponseMessage: WireMessage {
    package var header: ResponseHeader?
    package var succeeded = false
    package var responses: [ResponseOperationMessage] = []
    package init() {}
    package init(header: ResponseHeader?, succeeded: Bool, responses: [ResponseOperationMessage]) {
        self.header = header; self.succeeded = succeeded; self.responses = responses
    }
    package mutating func read(_ field: Int, from reader: inout WireReader) throws(WireError) -> Bool {
        switch field {
        case 1: header = try reader.message()
        case 2: succeeded = try reader.bool()
        case 3: responses.append(try reader.message())
        default: return false
        }
        return true
    }
    package func write<S: WireSink>(to sink: inout S) {
        sink.optionalMessage(1, header); sink.bool(2, succeeded); sink.messages(3, responses)
    }
}
