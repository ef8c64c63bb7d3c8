use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use tidegate_types::ErrorCode;

use crate::Body;

/// The gateway's own answer: the JSON error body with its stable code and the request's id.
///
/// A 400 also closes the connection: after a request that was not understood, nobody knows where the next one begins. So do
/// a 408 and a 413: the rest of the body is not wanted.
pub fn error_response(code: ErrorCode, message: &str, request_id: &str) -> Response<Body> {
    let mut response = Response::new(Body::from(Bytes::from(code.body(message, request_id))));
    *response.status_mut() = StatusCode::from_u16(code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Ok(id) = HeaderValue::from_str(request_id) {
        headers.insert("x-request-id", id);
    }
    let rest_of_body = matches!(code, ErrorCode::PayloadTooLarge | ErrorCode::RequestTimeout);
    if code == ErrorCode::BadRequest || rest_of_body {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
