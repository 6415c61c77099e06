import Foundation
import Glibc
import NIOCore
import NIOFoundationCompat
import NIOPosix

/// A question to the running agent, one JSON line; the answer is one JSON line too.
package struct StatusQuestion: Codable, Sendable {
    package enum Verb: String, Codable, Sendable { case status, drain, leftovers, collect }
    package var verb: Verb
    package init(_ verb: Verb) { self.verb = verb }
}
package struct StatusAnswer: Codable, Sendable {
    package var status: NodeStatus?
    package var lines: [String]?
    package var error: String?
    package init(status: NodeStatus? = nil, lines: [String]? = nil, error: String? = nil) { self.status = status; self.lines = lines; self.error = error }
}

/// The agent's only listening socket: a unix one, below its root, for its owner alone.
package enum StatusSocket {
    package static func path(root: String) -> String { root + "/agent.sock" }
    private static let questionBytesMax = 4_096
    private static let answerBytesMax = 64 << 20

    /// Serves until the task is cancelled.
    package static func serve(root: String, _ answer: @escaping @Sendable (StatusQuestion) async -> StatusAnswer) async throws {
        let path = path(root: root)
        unsafe unlink(path)
        let server = try await ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton)
            .bind(unixDomainSocketPath: path) { channel in
                channel.eventLoop.makeCompletedFuture { try NIOAsyncChannel<ByteBuffer, ByteBuffer>(wrappingChannelSynchronously: channel) }
            }
        if unsafe chmod(path, 0o600) < 0 { throw SystemFailure("closing the socket to others", code: errno) }
        try await server.executeThenClose { connections in
            try await withThrowingDiscardingTaskGroup { group in
                for try await connection in connections {
                    group.addTask { try? await converse(connection, answer) }
                }
            }
        }
    }

    private static func converse(_ connection: NIOAsyncChannel<ByteBuffer, ByteBuffer>, _ answer: (StatusQuestion) async -> StatusAnswer) async throws {
        try await connection.executeThenClose { inbound, outbound in
            var question = ByteBuffer()
            for try await chunk in inbound {
                question.writeImmutableBuffer(chunk)
                guard question.readableBytes <= questionBytesMax else { return }
                if question.readableBytesView.contains(UInt8(ascii: "\n")) { break }
            }
            let reply: StatusAnswer
            do {
                reply = await answer(try JSONDecoder().decode(StatusQuestion.self, from: Data(buffer: question)))
            } catch {
                reply = StatusAnswer(error: "the question is not understood")
            }
            var line = ByteBuffer(data: try JSONEncoder().encode(reply))
            line.writeInteger(UInt8(ascii: "\n"))
            try await outbound.write(line)
        }
    }

    /// Asks the agent that works on `root`. Nil when none does.
    package static func ask(_ question: StatusQuestion, root: String) async throws -> StatusAnswer? {
        let channel: NIOAsyncChannel<ByteBuffer, ByteBuffer>
        do {
            channel = try await ClientBootstrap(group: MultiThreadedEventLoopGroup.singleton).connect(unixDomainSocketPath: path(root: root)) { channel in
                channel.eventLoop.makeCompletedFuture { try NIOAsyncChannel<ByteBuffer, ByteBuffer>(wrappingChannelSynchronously: channel) }
            }
        } catch let error as IOError where error.errnoCode == ENOENT || error.errnoCode == ECONNREFUSED {
            return nil
        }
        return try await channel.executeThenClose { inbound, outbound in
            var line = ByteBuffer(data: try JSONEncoder().encode(question))
            line.writeInteger(UInt8(ascii: "\n"))
            try await outbound.write(line)
            var answer = ByteBuffer()
            for try await chunk in inbound {
                answer.writeImmutableBuffer(chunk)
                guard answer.readableBytes <= answerBytesMax else { throw PlaceRefusal("the agent's answer is too long") }
                if answer.readableBytesView.last == UInt8(ascii: "\n") { break }
            }
            return try JSONDecoder().decode(StatusAnswer.self, from: Data(buffer: answer))
        }
    }
}
