import Foundation
import NIOCore
import ObjectStore
import Resources

/// Makes the lines of a watch: one JSON document per event, as the client wants resources shown.
struct WatchWriter: Sendable {
    let type: ResourceType
    let selection: Selection
    let rendering: Rendering
    let including: Table.Included
    let bookmarks: Bool

    /// The lines of a batch, and how many objects they release.
    func pieces(of batch: ObjectEventBatch, now: Date) -> (buffers: [ByteBuffer], objects: Int) {
        guard !batch.events.isEmpty else { return (bookmarks ? [bookmark(batch.revision)] : [], 0) }
        let shown = batch.events.compactMap { event in
            Self.kind(of: event, selection).map { self.event($0, event.object.shown, now: now) }
        }
        return (shown, shown.count)
    }

    func event(_ kind: String, _ resource: Resource, now: Date) -> ByteBuffer {
        let moment = Timestamp(secondsSinceEpoch: Int64(now.timeIntervalSince1970))
        let object = rendering.one(resource, now: moment, including: including)
        return Answer.buffer(["type": .string(kind), "object": object], newline: true)
    }

    /// `endsInitial`: all that was there has been told.
    func bookmark(_ revision: Int64, endsInitial: Bool = false) -> ByteBuffer {
        var metadata: JSONValue = ["resourceVersion": .string(String(revision)), "creationTimestamp": .null]
        if endsInitial { metadata["annotations"] = ["k8s.io/initial-events-end": "true"] }
        let object: JSONValue =
            switch rendering {
            case .object: ["kind": .string(type.kind), "apiVersion": .string(type.apiVersion), "metadata": metadata]
            case .table:
                [
                    "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": ["resourceVersion": .string(String(revision))],
                    "columnDefinitions": .null, "rows": [["cells": [], "object": ["kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata]]],
                ]
            case .partialMetadata: ["kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata]
            }
        return Answer.buffer(["type": "BOOKMARK", "object": object], newline: true)
    }

    static func error(_ status: Status) -> ByteBuffer { Answer.buffer(["type": "ERROR", "object": status.json], newline: true) }

    /// What an event is to a client that sees the selected objects only: one that leaves the selection is deleted to it, one that comes
    /// into it is added. Nil when the client never sees it.
    static func kind(of event: ObjectEvent, _ selection: Selection) -> String? {
        let matches = selection.matches(event.object.shown)
        // Unknown when the version before is no longer there: then it may have been either.
        let matched = selection.isEverything ? true : event.previous.map { selection.matches($0.shown) }
        switch event.kind {
        case .added: return matches ? "ADDED" : nil
        case .deleted: return matches ? "DELETED" : nil
        case .modified:
            switch (matched, matches) {
            case (true?, true), (nil, true): return "MODIFIED"
            case (false?, true): return "ADDED"
            case (true?, false), (nil, false): return "DELETED"
            case (false?, false): return nil
            }
        }
    }
}
